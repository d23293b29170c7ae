"""From the sources that a recipe names to clean rows in one normal form, with a report of what was dropped and why.

`prepare` does all of it for one stage; the modules are its steps, and none knows another but through what it is handed.
"""

from harness.training.data.intake import Request
from harness.training.data.preparing import Prepared, prepare
from harness.training.data.reading import Origin
from harness.training.data.report import DataReport

__all__ = ["DataReport", "Origin", "Prepared", "Request", "prepare"]
