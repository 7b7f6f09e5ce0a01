"""Write the parts of the published schemas that the tests need, from packages that carry the schemas whole.

    pip download --no-deps opentelemetry-semantic-conventions ocsf-json-schema
    npm pack @elastic/ecs
    python tests/formats/schemas/make.py DIRECTORY     # with the three packages unpacked in otel, ocsf and ecs below it

Needs node for ECS. Raise the versions in `pipeline.formats.declared` afterwards.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from pipeline.formats.declared import MAPPINGS, OCSF_VERSION  # noqa: E402 - found by the line above

#: Fields that documents have besides those of the table.
ECS_NAMES = (
    "ecs.version", "error.message", "event.action", "event.category", "event.dataset", "event.kind", "event.module",
    "event.provider", "event.type", "host.hostname", "host.name", "host.os.type", "message",
    "process.previous.executable",
)  # fmt: skip
OTEL_GROUPS = ("container", "file", "host", "k8s", "log", "os", "process", "thread")
#: Large groups, of which only the names that documents have are kept.
OTEL_LARGE = ("k8s.",)
OCSF_CLASSES = ("process_activity", "base_event")
OCSF_OBJECTS = (
    "actor", "container", "device", "environment_variable", "file", "group", "metadata", "os", "process",
    "process_entity", "product", "session", "user",
)  # fmt: skip
OCSF_PROFILES = ("datetime", "host", "container", "linux/linux_users")

_CONSTANT = re.compile(r'^([A-Z0-9_]+): Final = "([^"\n]+)"\n"""\n(.*?)\n"""', re.MULTILINE | re.DOTALL)


def targets(form: str) -> set[str]:
    return {target.name for mapping in MAPPINGS for target in mapping.targets[form]}


def otel(directory: Path) -> dict[str, Any]:
    """Return the attributes of some groups, without deprecated ones."""
    package = directory / "opentelemetry" / "semconv"
    used = targets("otel")
    names: list[str] = []
    templates: list[str] = []
    for group in OTEL_GROUPS:
        module = Path("attributes") / f"{group}_attributes.py"
        files = (package / module, package / "_incubating" / module)
        text = "".join(each.read_text() for each in files if each.exists())
        for constant, name, about in re.findall(
            r'^([A-Z0-9_]+): Final = "([^"\n]+)"\n"""\n(.*?)\n"""', text, re.M | re.S
        ):
            if not about.startswith("Deprecated") and (name in used or not name.startswith(OTEL_LARGE)):
                (templates if constant.endswith("_TEMPLATE") else names).append(name)
    versions = re.findall(r"schemas/(\d+)\.(\d+)\.(\d+)", (package / "schemas.py").read_text())
    version = ".".join(map(str, max(tuple(map(int, each)) for each in versions)))
    return {
        **_head("OpenTelemetry semantic conventions", version, "opentelemetry-semantic-conventions of PyPI"),
        "attributes": sorted(set(names)),
        "templates": sorted(templates),
    }


def ecs(directory: Path) -> dict[str, Any]:
    """Return the fields that documents have, with their types."""
    code = "console.log(JSON.stringify(require(process.argv[1]).EcsFlat))"
    module = directory / "build" / "commonjs" / "index.js"
    done = subprocess.run(["node", "-e", code, str(module)], capture_output=True, check=True)
    flat = json.loads(done.stdout)
    fields: dict[str, Any] = {}
    for name in sorted({*targets("ecs"), *ECS_NAMES} & set(flat)):
        field = flat[name]
        fields[name] = {"type": field["type"]}
        if "array" in field["normalize"]:
            fields[name]["array"] = True
        if "pattern" in field:
            fields[name]["pattern"] = field["pattern"]
        if values := field.get("allowed_values"):
            fields[name]["values"] = [value["name"] for value in values]
            expected = {value["name"]: value.get("expected_event_types", []) for value in values}
            if any(expected.values()):
                fields[name]["expected_types"] = expected
    version = json.loads((directory / "package.json").read_text())["version"]
    return {**_head("Elastic Common Schema", version, "@elastic/ecs of npm"), "fields": fields}


def ocsf(directory: Path) -> dict[str, Any]:
    """Return the classes and objects of documents, without attributes of other profiles and objects."""
    whole = json.loads((directory / "ocsf_json_schema" / "ocsf" / f"{OCSF_VERSION}.json").read_text())
    classes = {name: {"uid": whole["classes"][name]["uid"], **_ocsf(whole["classes"][name])} for name in OCSF_CLASSES}
    objects = {name: _ocsf(whole["objects"][name]) for name in OCSF_OBJECTS}
    used = {
        attribute["type"]
        for each in (*classes.values(), *objects.values())
        for attribute in each["attributes"].values()
    }
    kinds = whole["dictionary"]["types"]["attributes"]
    types = {
        name: {key: kinds[name][key] for key in ("type", "regex", "max_len", "range") if key in kinds[name]}
        for name in sorted(used - {"object_t"})
    }
    return {
        **_head("Open Cybersecurity Schema Framework", whole["version"], "ocsf-json-schema of PyPI"),
        "profiles": [name for name in OCSF_PROFILES if name in whole["profiles"]],
        "classes": classes,
        "objects": objects,
        "types": types,
    }


def _ocsf(node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, attribute in sorted(node["attributes"].items()):
        profiles = attribute.get("profiles") or []
        if profiles and not set(profiles) & set(OCSF_PROFILES):
            continue
        if attribute.get("object_type", "object") not in (*OCSF_OBJECTS, "object"):
            continue
        keys = ("type", "object_type", "is_array", "requirement")
        found[name] = {key: attribute[key] for key in keys if attribute.get(key)}
        if profiles:
            found[name]["profiles"] = [each for each in profiles if each in OCSF_PROFILES]
        if "enum" in attribute:
            found[name]["enum"] = sorted(attribute["enum"], key=int)
    return {"attributes": found, **({"constraints": node["constraints"]} if node.get("constraints") else {})}


def _head(schema: str, version: str, source: str) -> dict[str, str]:
    return {
        "about": f"A part of the {schema}, written by make.py from the package {source}",
        "licence": "Apache-2.0",
        "version": version,
    }


def _text(value: Any, depth: int = 0) -> str:
    """Return JSON with short objects on one line."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or (len(line) < 110 and depth > 0):
        return line
    indent = " " * (depth + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"{indent}{_text(each, depth + 1)}" for each in value) + f"\n{' ' * depth}]"
    parts = ",\n".join(f"{indent}{json.dumps(key)}: {_text(each, depth + 1)}" for key, each in value.items())
    return f"{{\n{parts}\n{' ' * depth}}}"


def main(directory: Path) -> None:
    for name, make, place in (("otel", otel, "otel"), ("ecs", ecs, "ecs/package"), ("ocsf", ocsf, "ocsf")):
        (HERE / f"{name}.json").write_text(_text(make(directory / place)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
