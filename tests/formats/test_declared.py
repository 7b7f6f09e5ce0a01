"""The table of fields is complete, and names only fields that the published schemas have."""

from __future__ import annotations

import pytest

from pipeline.cli.ask.subscribe import command
from pipeline.formats import declared
from pipeline.formats.values import CONVERSIONS
from pipeline.shm.layout.entry_fields import FIELDS
from tests.formats.events import cases
from tests.formats.schemas import ecs, ocsf, otel

SCHEMAS = {"ecs": ecs, "ocsf": ocsf, "otel": otel}
VERSIONS = {"ecs": declared.ECS_VERSION, "ocsf": declared.OCSF_VERSION, "otel": declared.OTEL_SEMCONV_VERSION}
TARGETS = [
    (form, target.name)
    for mapping in declared.MAPPINGS
    for form in declared.FORMATS
    for target in mapping.targets[form]
]


SHOWN = [field.name for field in FIELDS if field.shown != "property"]


def test_a_field_that_the_table_does_not_name_has_its_own_name_in_all_formats() -> None:
    one, other = declared.parse("[mapped]\npid\n    ecs  process.pid:number\nfile.path\n    ecs  file.path:text")
    assert declared.completed((one, other), ["pid", "file", "new_state"]) == (
        one,
        other,
        declared.Mapping(
            "new_state",
            {
                "otel": (declared.Target("procline.new_state", "own"),),
                "ecs": (declared.Target("procline.new_state", "own"),),
                "ocsf": (declared.Target("unmapped.new_state", "own"),),
            },
            is_own=True,
        ),
    )


def test_only_fields_that_no_table_declares_are_listed_as_own() -> None:
    listed = {mapping.field for mapping in declared.parse(declared.TABLE) if mapping.is_own}
    assert listed & set(SHOWN) == set()


def test_every_field_of_an_event_is_mapped_or_has_a_reason() -> None:
    names = {mapping.field for mapping in declared.MAPPINGS}
    named = names | {name.partition(".")[0] for name in names}
    assert set(SHOWN) - named == set()
    statistics = {"entries", "load", "nan", "processes", "big"}  # of tests.formats.events; `stats` has all of them
    assert {key for _, event in cases() for key in event} - named - statistics == set()


def test_no_field_is_named_twice() -> None:
    names = [mapping.field for mapping in declared.MAPPINGS]
    assert sorted(set(names)) == sorted(names)


def test_fields_share_a_target_only_where_one_is_better_than_the_other() -> None:
    shared = {(form, name) for form, name in TARGETS if TARGETS.count((form, name)) > 1}
    assert shared == {
        ("ecs", "process.name"), ("ocsf", "process.name"), ("ecs", "process.parent.name"),
        ("ocsf", "process.parent_process.name"), ("ocsf", "process.file.uid"),
        # A gap has these, or a time without a daemon: no event has both.
        ("ecs", "event.start"), ("ecs", "event.end"), ("ocsf", "start_time"), ("ocsf", "start_time_dt"),
        ("ocsf", "end_time"), ("ocsf", "end_time_dt"),
    }  # fmt: skip


def test_what_is_left_out_has_a_reason_and_the_rest_has_none() -> None:
    for mapping in declared.MAPPINGS:
        assert bool(mapping.reason) == (not any(mapping.targets.values())), mapping.field


def test_every_conversion_exists_and_is_used() -> None:
    used = {
        target.conversion for mapping in declared.MAPPINGS for targets in mapping.targets.values() for target in targets
    }
    assert used == set(CONVERSIONS)


@pytest.mark.parametrize(("form", "name"), sorted(set(TARGETS)))
def test_every_target_is_a_field_of_the_schema(form: str, name: str) -> None:
    assert SCHEMAS[form].has(name), f"{name} is no field of {form} {VERSIONS[form]}"


@pytest.mark.parametrize("form", declared.FORMATS)
def test_the_versions_are_those_of_the_schemas(form: str) -> None:
    assert VERSIONS[form] == SCHEMAS[form].VERSION


def test_a_name_that_no_schema_has_is_found() -> None:
    for form in declared.FORMATS:
        assert not SCHEMAS[form].has("process.frobnicated")
        assert SCHEMAS[form].has(f"{declared.NAMESPACES[form]}.frobnicated")


def test_the_command_offers_the_formats() -> None:
    (option,) = [each for each in command.params if each.name == "form"]
    assert tuple(option.type.choices) == ("native", *declared.FORMATS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", ["    sql  process.pid:number", "    ecs"])
def test_a_line_of_the_table_with_an_error_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of the table"):
        declared.parse(f"[mapped]\npid\n{line}\n")
