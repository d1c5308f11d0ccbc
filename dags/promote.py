"""The DAG `promote`: models that runs have offered are measured, judged by rules and by a person, and one may become the champion."""

from __future__ import annotations

from airflow.sdk import DAG
from maskline_airflow.assets import CANDIDATE
from maskline_airflow.form import promotion_fields
from maskline_airflow.pipeline import DAG_SETTINGS
from maskline_airflow.promotion import promotion

with DAG(
    dag_id="promote",
    schedule=[CANDIDATE],
    is_paused_upon_creation=False,
    params=promotion_fields(),
    tags=["maskline", "mask-rcnn", "promotion"],
    doc_md="""
### Let a model take the champion's place

Runs when a schedule with `offer_for_promotion` has a good run, or when you trigger it with the folder of a model or a run. Each candidate
goes its own way: `nominate` finds the model and the split that the policy asks for, `evaluate` measures it there, `gate` asks the rules.
Where all hold, `approve` waits for a person: **Required Actions**, on the page of the run. A reason has to be given, and stands in the
ledger with the name. `decide` moves the alias `champion`.

*A refusal* is no failure: `gate` or `decide` is skipped then, and says why. It stands in the ledger, as does what nobody has answered in
time.

*Nothing waits for it*: training goes on meanwhile, and so do other promotions.
""",
    **{**DAG_SETTINGS, "max_active_runs": 16, "deadline": None},
):
    promotion()
