"""From a section of a YAML file to the judge that it describes, with the rubric's checks before it"""

from __future__ import annotations

from pydantic import BaseModel

from harness import plugins
from harness.config import OpenSection
from harness.errors import ConfigError, PluginError
from harness.judging._checked import CheckedJudge
from harness.judging.kinds import JudgeContext
from harness.judging.records import Judge
from harness.judging.rubric import Rubric

_KIND = "judging.kinds"


class JudgeSection(OpenSection):
    """A judge in a YAML file: `kind` is the plugin, the other keys are its options."""

    kind: str = "served"


def check_section(section: JudgeSection, where: str) -> BaseModel:
    """The options of a section, before anything is built.

    Raises:
        PluginError: there is no such kind; the nearest is named.
        ConfigError: an option is unknown or wrong.
    """
    return plugins.options(_KIND, section.kind, section.options, where=where)


def build_judge(section: JudgeSection, rubric: Rubric, context: JudgeContext, where: str) -> Judge:
    """The judge that a section describes, behind the checks of its rubric; `where` is the user's own path to it.

    Raises:
        PluginError: there is no such kind (the nearest is named), or its extra is not installed.
        ConfigError: an option is wrong, or does not go with the rubric.
        SubjectError: a model of it cannot be loaded.
    """
    return CheckedJudge(bare_judge(section, rubric, context, where), rubric)


def bare_judge(section: JudgeSection, rubric: Rubric, context: JudgeContext, where: str) -> Judge:
    """The same without the checks: a juror, whose jury stands behind them."""
    options = check_section(section, where)
    try:
        judge: Judge = plugins.load(_KIND, section.kind).build(options, rubric, context)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ImportError as error:
        raise PluginError(f"{where}: {plugins.missing_extra(f'judge kind {section.kind!r}', error)}") from error
    return judge
