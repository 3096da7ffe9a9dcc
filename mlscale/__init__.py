"""Designing machine-learning systems at scale: the library that the mlscale workbook exports.

Where to start
--------------
>>> from mlscale.experiments import sample_size_proportions
>>> sample_size_proportions(.20, .05)
(25583, 25583)

Each module is built in a notebook of its name in `nbs/`; `nbs/index.ipynb` is the map. `pip install
mlscale` brings the light core (numpy, scipy, pandas): `experiments`, `sequential`, `schedules`,
`drift`, `capacity` and their companions. Other modules name the extra that they need when it is missing.

Modules
-------
data          the flights of 2013 as a log of events, each with the time it became known
features      point-in-time joins and rolling features, one definition offline and online
training      splits in time, evaluation with intervals that count days
artifacts     a model as a bundle of files that can be trusted: skops, ONNX, digests
registry      versions, aliases, gates, promotion, rollback, deployment
batch         idempotent, atomic scoring on Spark
serving       the HTTP service, with hot swap, limits and a log of predictions
drift         calibrated drift detection
monitoring    checks of features, predictions, latency and loss; alerts with a life cycle
experiments   A/B tests: sizes, splits, intervals with known coverage, CUPED, clusters
sequential    tests that may be read at any time: error spending, e-values, SequentialTest
schedules     learning-rate schedules, online learning with late labels, restarts
lifecycle     the closed loop over the year
capacity      waiting times from a log, machines, money, an autoscaler
exercises     `check`: exercises that check themselves
cli           the command `mlscale`
storage, arguments, guesses   plumbing

The companions hold the strong versions; a chapter's module passes their public names on.
"""
__version__ = "0.1.0"
