"""`dcam plugins`: what is installed, what it offers, and what is broken and why."""

from __future__ import annotations

import json
import warnings
from typing import Any

import click

from dcam_core.cli.session import Session
from dcam_core.plugins import PluginInfo
from dcam_core.plugins.failure import PluginWarning, describe

__all__ = ["plugins"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.pass_obj
def plugins(session: Session, *, as_json: bool) -> None:
    """List the plugins and what they offer.

    Plugins that failed or are switched off are listed too. -v adds where each is imported from, -vv the traceback
    of those that failed.
    """
    with warnings.catch_warnings():
        # The list itself tells what failed.
        warnings.filterwarnings("ignore", ".*; it is left out", PluginWarning)
        found = session.manager.plugins
    if as_json:
        click.echo(json.dumps([_as_data(info) for info in found], indent=2))
        return
    for info in found:
        text = _as_text(info, with_source=session.verbosity >= 1, with_traceback=session.verbosity >= 2)
        click.echo(text)
    if session.verbosity < 2 and any(info.failure for info in found):
        click.echo("`dcam -vv plugins` shows the tracebacks of those that failed", err=True)
    if not found:
        click.echo("no plugins: is the distribution `dcam` installed, or are all switched off?", err=True)


def _status(info: PluginInfo) -> str:
    """The status, and how to change it."""
    if info.status in ("blocked", "not loaded"):
        return f"{info.status} (`-p {info.name}` switches it on)"
    return info.status


def _as_data(info: PluginInfo) -> dict[str, Any]:
    failure = info.failure and {
        "phase": info.failure.phase,
        "hook": info.failure.hook,
        "cause": describe(info.failure.cause),
        "traceback": info.failure.traceback,
    }
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "source": info.source,
        "status": info.status,
        "hooks": list(info.hooks),
        "offers": {kind: list(names) for kind, names in info.offers.items()},
        "failure": failure or None,
    }


def _as_text(info: PluginInfo, *, with_source: bool, with_traceback: bool) -> str:
    origin = f"{info.distribution} {info.version}" if info.distribution else f"module {info.source}"
    lines = [f"{info.name} ({origin}): {_status(info)}"]
    if with_source and info.distribution:
        lines.append(f"  from: {info.source}")
    lines += [f"  {kind}: {', '.join(names)}" for kind, names in info.offers.items()]
    others = [hook for hook in info.hooks if not hook.startswith("dcam_register_")]
    if others:
        lines.append(f"  hooks: {', '.join(others)}")
    if info.failure:
        lines.append(f"  {info.failure.reason}")
        if with_traceback:
            lines.append(info.failure.traceback.rstrip())
    return "\n".join(lines)
