"""The public interface of the resolver is typed without `Any`, so that a caller's type checker helps."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

import pipeline

#: Modules with public classes that callers implement or receive, besides the names of `pipeline` itself.
INTERFACES = ("collaborators", "event", "kernel_maps", "model", "opts")


def callables_of(one: object, name: str) -> Iterator[tuple[str, Callable[..., object]]]:
    """Yield the public functions of a class, or a function itself, with their names."""
    if inspect.isfunction(one):
        yield name, one
    if not inspect.isclass(one):
        return
    for attribute, value in vars(one).items():
        if attribute.startswith("_") and attribute != "__init__":
            continue
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if inspect.isfunction(function):
            yield f"{name}.{attribute}", function


def public() -> Iterator[tuple[str, Callable[..., object]]]:
    for name in pipeline.__all__:
        one = getattr(pipeline, name)
        if getattr(one, "__module__", "").startswith("pipeline.resolver."):
            yield from callables_of(one, name)
    for module_name in INTERFACES:
        module = import_module(f"pipeline.resolver.entries.{module_name}")
        for name, one in vars(module).items():
            if inspect.isclass(one) and one.__module__ == module.__name__ and not name.startswith("_"):
                yield from callables_of(one, f"{module_name}.{name}")


PUBLIC = dict(public())


def test_the_methods_that_users_call_are_among_them() -> None:
    wanted = {"EBPFResolver.resolve", "EBPFLessResolver.add_exec_entry", "ProcessCacheEntry.set", "get_process_argv",
              "ResolverOpts.with_envs_value", "collaborators.ProcSource.read"}  # fmt: skip
    assert wanted <= set(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_no_annotation_is_any(name: str) -> None:
    for parameter, annotation in inspect.get_annotations(PUBLIC[name]).items():
        assert not re.search(r"\bAny\b", str(annotation)), f"{name}: {parameter} is {annotation}"
