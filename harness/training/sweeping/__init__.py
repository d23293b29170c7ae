"""Sweeps: many trainings of one recipe with other settings, compared by the gate's own trade-off.

Every trial is a whole training, judged by the gate on the target (guards with `must_improve`: what was learned) and on
everything else that is required (what was forgotten). A trial in which a regression is shown is out. Optuna proposes
the settings, with both as objectives and the regression as a constraint.

**What keeps this honest.** The best of many trials is lucky as well as good, so its scores on the samples that chose it
are too good. A sweep therefore needs a gate that holds samples back (`for_sweeps`, see `harness.execution.parts`):

- Trials are judged on those alone, all of them each time, and so are the looks of `ForgettingGuard` within a trial. No
  trial and no choice between trials has seen a sample of the verdict.
- Hence the gate's verdict on the chosen one is as valid as on any single candidate, however many trials there were: its
  levels hold, and its differences are free of the luck of the choice. Its samples are fewer by the share held back.
- No run on the samples held back is ever a PROMOTE.
- It does not hold for a verdict that is itself used to choose: who sweeps again because the gate said no, or gates the
  second best after the best, has made the verdict's samples part of the search. Each candidate gated is one more
  chance of a false promotion, at most α each.

All trials have the recipe's seed and rows. What a trial has learned or forgotten is what this one adapter has, and this
very adapter is what the gate is given; another seed would make another one.
"""
