"""The schemas of every table, in one place: the Parquet files of the stages and the tables of `manifest.duckdb`."""

from __future__ import annotations

import pyarrow as pa

STRING = pa.string()
BIG = pa.int64()
INT = pa.int32()
DOUBLE = pa.float64()

DOCUMENTS = pa.schema(
    [("doc_id", STRING), ("source", STRING), ("text", STRING), ("n_bytes", BIG), ("use", STRING), ("reason", STRING)]
)

DROPPED = pa.schema(
    [
        ("doc_id", STRING),
        ("source", STRING),
        ("use", STRING),
        ("n_bytes", BIG),
        ("record_id", STRING),
        ("reason", STRING),
        ("match", INT),
        ("share", DOUBLE),
    ]
)

CORPUS_STEPS = pa.schema([("step", STRING), ("source", STRING), ("reason", STRING), ("documents", BIG), ("bytes", BIG)])

RECORDS = pa.schema(
    [
        ("record_id", STRING),
        ("perturbation", STRING),
        ("kind", STRING),
        ("risk", STRING),
        ("role", STRING),
        ("cluster_id", STRING),
        ("stratum", STRING),
        ("text", STRING),
        ("fields", STRING),
        ("n_tokens", BIG),
        ("n_bytes", BIG),
        ("licence", STRING),
        ("source", STRING),
    ]
)

SPAN = pa.struct([("attribute", STRING), ("start", INT), ("end", INT)])

RENDERINGS = pa.schema(
    [
        ("record_id", STRING),
        ("rendering", STRING),
        ("text", STRING),
        ("n_tokens", BIG),
        ("n_bytes", BIG),
        ("spans", pa.list_(SPAN)),
        ("token_ids", pa.list_(INT)),
    ]
)

FILLERS = pa.schema([*RECORDS, RENDERINGS.field("rendering"), RENDERINGS.field("spans"), RENDERINGS.field("token_ids")])

ASSIGNMENTS = pa.schema(
    [
        ("arm", STRING),
        ("draw", BIG),
        ("record_id", STRING),
        ("level", INT),
        ("split", STRING),
        ("phase_start", STRING),
        ("phase_end", STRING),
        ("position", STRING),
        ("spacing", STRING),
        ("rendering", STRING),
    ]
)

EXPOSURES = pa.schema(
    [
        ("arm", STRING),
        ("draw", BIG),
        ("record_id", STRING),
        ("copy", INT),
        ("rendering", STRING),
        ("slot", BIG),
        ("sequence", BIG),
        ("step", INT),
        ("row", INT),
        ("start", INT),
        ("length", INT),
        ("displaced", INT),
        ("at_boundary", pa.bool_()),
        ("attempt", INT),
    ]
)

OCCURRENCES = pa.schema([("record_id", STRING), ("sequence", BIG), ("start", INT), ("match", INT)])

COVERAGE = pa.schema(
    [("record_id", STRING), ("n_tokens", INT), ("longest", INT), ("coverage", DOUBLE), ("occurrences", BIG)]
)

BALANCE = pa.schema(
    [
        ("perturbation", STRING),
        ("draw", BIG),
        ("stratum", STRING),
        ("level", INT),
        ("records", BIG),
        ("clusters", BIG),
        ("mean_tokens", DOUBLE),
        ("std_difference", DOUBLE),
    ]
)

LOG = pa.schema(
    [
        ("run", STRING),
        ("step", INT),
        ("tokens", BIG),
        ("loss", DOUBLE),
        ("lr", DOUBLE),
        ("grad_norm", DOUBLE),
        ("data_digest", STRING),
    ]
)

SPEED = pa.schema([("run", STRING), ("step", INT), ("seconds", DOUBLE), ("tokens_per_second", DOUBLE), ("mfu", DOUBLE)])

VALIDATION = pa.schema(
    [("run", STRING), ("step", INT), ("tokens", BIG), ("loss", DOUBLE), ("losses", pa.list_(DOUBLE))]
)

LEDGER = pa.schema(
    [
        ("run", STRING),
        ("step", INT),
        ("record_id", STRING),
        ("rendering", STRING),
        ("context", STRING),
        ("position", INT),
        ("token_id", INT),
        ("n_bytes", INT),
        ("logp", pa.float32()),
        ("rank", INT),
        ("top1", pa.bool_()),
        ("mean_logp", pa.float32()),
        ("var_logp", pa.float32()),
        ("lse_top40", pa.float32()),
    ]
)

MEASURED = [
    ("run", STRING),
    ("step", INT),
    ("record_id", STRING),
    ("rendering", STRING),
    ("probe", STRING),
    ("variant", STRING),
]

SCORES = pa.schema([*MEASURED, ("metric", STRING), ("value", DOUBLE)])

GAPS = pa.schema([*MEASURED, ("reason", STRING)])

GENERATED = pa.schema([*MEASURED, ("prompt", STRING), ("text", STRING), ("token_ids", pa.list_(INT))])

CONTRASTED = [
    ("probe", STRING),
    ("variant", STRING),
    ("metric", STRING),
    ("perturbation", STRING),
    ("model", STRING),
    ("treated", STRING),
    ("control", STRING),
]

EFFECTS = pa.schema(
    [
        ("estimand", STRING),
        *CONTRASTED,
        ("factor", STRING),
        ("level", INT),
        ("step", INT),
        ("n", BIG),
        ("n_clusters", BIG),
        ("n_runs", BIG),
        ("estimate", DOUBLE),
        ("ci_low", DOUBLE),
        ("ci_high", DOUBLE),
        ("given_low", DOUBLE),
        ("given_high", DOUBLE),
        ("band_low", DOUBLE),
        ("band_high", DOUBLE),
        ("p_value", DOUBLE),
        ("p_adjusted", DOUBLE),
        ("p_max_t", DOUBLE),
        ("family", STRING),
        ("margin", DOUBLE),
        ("p_equivalent", DOUBLE),
        ("method", STRING),
    ]
)

DOSE_FITS = pa.schema(
    [
        *CONTRASTED,
        ("step", INT),
        ("curve", STRING),
        ("n", BIG),
        ("n_clusters", BIG),
        ("n_runs", BIG),
        ("half_dose", DOUBLE),
        ("ci_low", DOUBLE),
        ("ci_high", DOUBLE),
        ("censored", STRING),
        ("detection_dose", INT),
        ("largest", DOUBLE),
        ("slope", DOUBLE),
        ("fit_p", DOUBLE),
        ("method", STRING),
    ]
)

RETENTION = pa.schema(
    [
        *CONTRASTED,
        ("factor", STRING),
        ("level", INT),
        ("phase_end", INT),
        ("step", INT),
        ("n", BIG),
        ("n_clusters", BIG),
        ("n_runs", BIG),
        ("acquired", DOUBLE),
        ("acquired_low", DOUBLE),
        ("acquired_high", DOUBLE),
        ("kept", DOUBLE),
        ("kept_low", DOUBLE),
        ("kept_high", DOUBLE),
        ("share", DOUBLE),
        ("share_low", DOUBLE),
        ("share_high", DOUBLE),
        ("half_life", DOUBLE),
        ("half_life_low", DOUBLE),
        ("half_life_high", DOUBLE),
        ("censored", STRING),
        ("method", STRING),
    ]
)

HYPOTHESES = pa.schema(
    [
        ("finding", STRING),
        ("hypothesis", STRING),
        ("claim", STRING),
        ("expect", STRING),
        ("estimand", STRING),
        *CONTRASTED,
        ("factor", STRING),
        ("level", INT),
        ("step", INT),
        ("n_runs", BIG),
        ("estimate", DOUBLE),
        ("ci_low", DOUBLE),
        ("ci_high", DOUBLE),
        ("margin", DOUBLE),
        ("p_value", DOUBLE),
        ("p_adjusted", DOUBLE),
        ("verdict", STRING),
        ("method", STRING),
        ("hubble", STRING),
    ]
)

MEMBERSHIP = pa.schema(
    [
        ("run", STRING),
        ("step", INT),
        ("perturbation", STRING),
        ("labels", STRING),
        ("level", INT),
        ("attack", STRING),
        ("tier", STRING),
        ("reference", STRING),
        ("gate", STRING),
        ("n_members", BIG),
        ("n_nonmembers", BIG),
        ("n_runs", BIG),
        ("auc", DOUBLE),
        ("ci_low", DOUBLE),
        ("ci_high", DOUBLE),
        ("p_value", DOUBLE),
        ("p_adjusted", DOUBLE),
        ("tpr_01", DOUBLE),
        ("tpr_01_low", DOUBLE),
        ("tpr_01_high", DOUBLE),
        ("fpr_01", DOUBLE),
        ("tpr_001", DOUBLE),
        ("tpr_001_low", DOUBLE),
        ("tpr_001_high", DOUBLE),
        ("fpr_001", DOUBLE),
        ("method", STRING),
    ]
)

DATASET_INFERENCE = pa.schema(
    [
        ("run", STRING),
        ("step", INT),
        ("perturbation", STRING),
        ("labels", STRING),
        ("level", INT),
        ("gate", STRING),
        ("n", BIG),
        ("n_features", BIG),
        ("p_value", DOUBLE),
        ("method", STRING),
    ]
)
