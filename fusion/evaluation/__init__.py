"""What was learned: features, probes, baselines, fine-tuning, diagnostics, and reports with pictures.

scikit-learn and matplotlib are imported when they are first used.
"""

from .areas import AreaAccuracy, Estimate, area_accuracy
from .baselines import forest_probe, random_encoder, raw_statistics
from .diagnostics import diagnose, effective_rank, retrieval
from .features import Features, extract
from .finetune import finetune, predict
from .intervals import Interval, Intervals, bootstrap, score_intervals
from .metrics import Spread, per_class, score
from .probes import ProbeResult, knn_probe, linear_probe
from .protocol import Row, combinations, compare, evaluate, probe, summarise
from .report import Picture, Section, Table, write_report

__all__ = [
    "AreaAccuracy",
    "Estimate",
    "Features",
    "Interval",
    "Intervals",
    "Picture",
    "ProbeResult",
    "Row",
    "Section",
    "Spread",
    "Table",
    "area_accuracy",
    "bootstrap",
    "combinations",
    "compare",
    "diagnose",
    "effective_rank",
    "evaluate",
    "extract",
    "finetune",
    "forest_probe",
    "knn_probe",
    "linear_probe",
    "per_class",
    "predict",
    "probe",
    "random_encoder",
    "raw_statistics",
    "retrieval",
    "score",
    "score_intervals",
    "summarise",
    "write_report",
]
