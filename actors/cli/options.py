"""The options of a role, which several commands take alike; what they say is read in `entry`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from actors.cli.entry import Said


def taking(options: Callable[..., object], name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that gives a command the parameters of `options` in place of its own `name`.

    When the command is called, its argument `name` is what `options` returns for what was given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        theirs = inspect.signature(options, eval_str=True).parameters

        @wraps(command)
        def run(**given: object) -> None:
            made = options(**{key: given.pop(key) for key in theirs})
            command(**given, **{name: made})

        parameters: list[inspect.Parameter] = []
        for key, parameter in inspect.signature(command, eval_str=True).parameters.items():
            parameters.extend(theirs.values() if key == name else [parameter])
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _option(name: str, metavar: str | None, help: str) -> Any:  # noqa: A002  (typer's word)
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel="The role")


@dataclass(frozen=True, kw_only=True)
class RoleOptions:
    """What the command line says of a role; one field for each option, None where it was not given."""

    lora_path: Annotated[
        str | None, _option("--lora-path", "SOURCE", "Its adapter: a folder, a hub id or a URL.")
    ] = None
    location: Annotated[
        str | None, _option("--location", "TIER", "Where it rests: VRAM, RAM, SSD (or disk), network.")
    ] = None
    node: Annotated[str | None, _option("--node", "NODE", "The machine where it rests.")] = None
    device: Annotated[str | None, _option("--device", "DEVICE", "VRAM only: cpu, cuda:0 …")] = None
    base: Annotated[str | None, _option("--base", "BASE", "The base that it speaks on.")] = None
    persona: Annotated[str | None, _option("--persona", "TEXT", "Its system prompt.")] = None
    persona_file: Annotated[
        str | None, _option("--persona-file", "FILE", "A text file that holds it instead.")
    ] = None
    description: Annotated[str | None, _option("--description", "TEXT", "What it is for.")] = None
    rag: Annotated[list[str] | None, _option("--rag", "SHARD", "A shard that it reads; may be repeated.")] = (
        None
    )
    consults: Annotated[
        list[str] | None, _option("--consults", "ROLE", "A role that it asks; may be repeated.")
    ] = None
    activated_by: Annotated[
        list[str] | None, _option("--activated-by", "WHO", "user, schedule or a role; may be repeated.")
    ] = None
    pin: Annotated[bool | None, _option("--pin/--no-pin", None, "Whether it never leaves its home.")] = None
    idle: Annotated[str | None, _option("--idle", "TIME", "Unload it when unused so long: 10min.")] = None
    set_fields: Annotated[
        list[str] | None,
        _option("--set", "KEY=VALUE", "Any field as in the file: generation.temperature=0; may be repeated."),
    ] = None

    def said(self) -> Said:
        """Return what was said. Raises BadParameter for a field that was said twice, or cannot be read."""
        from actors.cli.entry import add, path_of, value_of

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        settings, idle = given.pop("set_fields"), given.pop("idle")
        said: Said = {(name,): value for name, value in given.items() if value not in (None, [])}
        if idle is not None:
            said["unload", "idle"] = idle
        for setting in settings or ():
            key, equals, text = setting.partition("=")
            if not equals:
                raise typer.BadParameter(f"{setting!r} is not KEY=VALUE", param_hint="--set")
            add(said, path_of(key, "--set"), value_of(key, text), "--set")
        return said
