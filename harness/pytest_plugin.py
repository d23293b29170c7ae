"""`pytest --harness-gate gate.yaml`: every guard of a gate is a test, and the gate is run once for all of them

| what the gate found | what pytest says |
| --- | --- |
| a required guard passed, an advisory one did | passed |
| a guard regressed that blocks | failed, with BLOCK |
| a required guard is undecided, or its check failed | failed, with HOLD: nothing was shown, so nothing is green |
| an advisory guard regressed or is undecided | skipped, with its numbers as the reason |
| the gate could not run | failed, with the error, for every guard |

The test `verdict` passes on PROMOTE alone; it also fails for what no guard explains, such as a budget that is spent.
Collecting reads gate.yaml and its suites and loads no model. Without the option nothing of Harness is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.gated import Finding, GateSession  # noqa: F401 - GateSession is named in a string below

_SHARED = "harness_shared"
_SESSION = pytest.StashKey["GateSession"]()


class GuardFailed(Exception):
    """A guard that does not allow a promotion; its message is all that is worth reading, so it has no traceback."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate."""
    group = parser.getgroup("harness", "promotion gate")
    group.addoption("--harness-gate", metavar="GATE_YAML", help="make a test of every guard of this gate.yaml")
    group.addoption("--harness-candidate", metavar="PATH", help="gate this adapter or checkpoint instead")
    group.addoption("--harness-out", metavar="FOLDER", help="folder that receives the run directory")


def pytest_configure(config: pytest.Config) -> None:
    """Have the gate collected beside what was asked for."""
    given = config.getoption("--harness-gate")
    if given is None:
        return
    from harness.gated import GateSession

    def place(option: str) -> Path | None:
        value = config.getoption(option)
        return None if value is None else (config.invocation_params.dir / value).resolve()

    path = place("--harness-gate")
    if path is None or not path.is_file():
        raise pytest.UsageError(f"--harness-gate {given}: no such file")
    shared = getattr(config, "workerinput", {}).get(_SHARED)
    config.stash[_SESSION] = GateSession(
        path, place("--harness-candidate"), place("--harness-out"), None if shared is None else Path(shared)
    )
    if str(path) not in config.args:
        config.args.append(str(path))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give every worker of pytest-xdist, which is a process of its own, the one folder in which they meet."""
    if _SESSION in node.config.stash:
        node.workerinput[_SHARED] = str(node.config.stash[_SESSION].meeting_place())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder."""
    session = config.stash.get(_SESSION, None)
    if session is not None:
        session.close()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The gate.yaml of the option, and no other."""
    session = parent.config.stash.get(_SESSION, None)
    if session is None or file_path.resolve() != session.path:
        return None
    found: GateFile = GateFile.from_parent(parent, path=file_path)
    return found


class GateFile(pytest.File):
    """A gate.yaml as a file of tests."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item a guard, required ones first as in the report, and one for the verdict."""
        from harness.errors import HarnessError

        session = self.config.stash[_SESSION]
        try:
            found = session.guards()
        except HarnessError as error:
            raise self.CollectError(str(error)) from error
        yield GateItem.from_parent(self, name="verdict", key=None)
        for name, key in found:
            yield GateItem.from_parent(self, name=name, key=key)


class GateItem(pytest.Item):
    """One guard, or the verdict."""

    def __init__(self, *, key: tuple[str, bool] | None, **given: Any) -> None:
        super().__init__(**given)
        self._key = key

    def runtest(self) -> None:
        """Run the gate, unless it has been run, and say what it found here."""
        from harness.errors import HarnessError

        session = self.config.stash[_SESSION]
        try:
            finding: Finding = session.verdict() if self._key is None else session.guard(self._key)
        except HarnessError as error:
            raise GuardFailed(f"the gate could not run: {error}") from error
        self.user_properties += [("harness", finding.text), ("harness_report", str(finding.report))]
        if finding.state == "failed":
            raise GuardFailed(f"{finding.text}\n{finding.report}")
        if finding.state == "skipped":
            pytest.skip(finding.text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What the gate says; a traceback only for what is a mistake of ours."""
        if isinstance(excinfo.value, GuardFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The gate.yaml and the guard."""
        return self.path, None, f"{self.path.name}: {self.name}"
