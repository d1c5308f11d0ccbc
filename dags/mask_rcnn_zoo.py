"""The DAG `mask_rcnn_zoo`: one data set, the Mask R-CNN zoo configs that were chosen, one comparison.

Only operators, names and edges. What a step does is `maskline STEP --help`; where it runs is the operator's setting.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, TriggerRule, task, task_group
from maskline_airflow.step_operator import StepOperator, run_dir

ZOO_CONFIGS = [
    "mask_rcnn_inception_resnet_v2_atrous_coco",
    "mask_rcnn_inception_v2_coco",
    "mask_rcnn_resnet101_atrous_coco",
    "mask_rcnn_resnet50_atrous_coco",
]

# Fields of the pipeline.config for training from scratch on small pictures.
SMALL_PICTURES = [
    "train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate={learning_rate_base: 0.001 total_steps: 100000 "
    "warmup_learning_rate: 0.00001 warmup_steps: 10}",
    "model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.height=64",
    "model.faster_rcnn.first_stage_anchor_generator.grid_anchor_generator.width=64",
    "model.faster_rcnn.second_stage_batch_size=16",
]

RUN_DIR = "{{ run_dir(params.run_name, run_id) }}"

PARAMS = {
    "dataset": Param(
        "configs/datasets/shapes.yaml",
        type="string",
        minLength=1,
        examples=["configs/datasets/shapes.yaml", "configs/datasets/fruits_nuts.yaml"],
        title="Data set",
        description="A data set's YAML file: an absolute path, or one from the root of the repository.",
    ),
    "max_bad": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        title="Bad images",
        description="How many images that cannot become records may be left out and listed. Empty: none.",
    ),
    "shards": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Shards",
        description="Files of records for each split. Empty: one for 500 images.",
    ),
    "workers": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Processes",
        description="How many write records on one machine. Empty: one.",
    ),
    "shard_ranges": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[0-9]+:[0-9]+$"},
        uniqueItems=True,
        title="Ranges of shards",
        description="FIRST:END, one a line, counted over all splits from 0: each is written by a task of its own, on whichever worker is "
        "free, and `materialize` joins them. Empty: one task writes all.",
    ),
    "configs": Param(
        ZOO_CONFIGS,
        type="array",
        items={"type": "string", "enum": ZOO_CONFIGS},
        examples=ZOO_CONFIGS,
        minItems=1,
        uniqueItems=True,
        title="Zoo configs",
        description="The models to train and compare.",
    ),
    "run_name": Param(
        "",
        type="string",
        pattern="^([A-Za-z0-9_-][A-Za-z0-9._-]*)?$",
        title="Name of the run",
        description="Its folder under `runs/`. The name of an earlier run continues it and skips what is done. "
        "Empty: made of the DAG run's id.",
    ),
    "checkpoint": Param(
        "",
        type="string",
        title="Checkpoint",
        description="A TF1 checkpoint to start from: its prefix, folder or tarball, or a folder that holds one for each chosen "
        "config, named as the zoo's are. Empty: from scratch.",
    ),
    "checkpoint_label_map": Param(
        "",
        type="string",
        examples=["coco"],
        title="Label map of the checkpoint",
        description="With one, the heads are restored too, for the classes that both label maps name. `coco` is the zoo's.",
    ),
    "config_fields": Param(
        SMALL_PICTURES,
        type="array",
        items={"type": "string", "pattern": "^[^=]+=.+$"},
        title="Fields of the pipeline.config",
        description="PATH=VALUE, one a line, set in each chosen config. This and the fields below start with values that two CPU cores "
        "can train from scratch on small pictures. Empty: as the zoo config says.",
    ),
    "steps": Param(60, type=["null", "integer"], minimum=1, title="Training steps"),
    "batch_size": Param(1, type=["null", "integer"], minimum=1, title="Images per step"),
    "image_size": Param(
        128,
        type=["null", "integer"],
        minimum=32,
        title="Image size",
        description="Short side in pixels after resizing; the long side follows the config's proportion.",
    ),
    "learning_rate": Param(0.001, type=["null", "number"], exclusiveMinimum=0, title="Learning rate"),
    "precision": Param(
        "float32",
        type=["null", "string"],
        enum=["float32", "mixed_bfloat16", "mixed_float16", None],
        title="Precision",
    ),
    "proposals": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Proposals",
        description="Boxes per image that reach the second stage. Empty: as the zoo config says, 300.",
    ),
}

with DAG(
    dag_id="mask_rcnn_zoo",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params=PARAMS,
    user_defined_macros={"run_dir": run_dir},
    default_args={
        "owner": "maskline",
        # A cold api-server on a busy machine can fail a task that has hardly begun, and training can lose its worker.
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2,
        "max_retry_delay": timedelta(minutes=10),
    },
    tags=["maskline", "mask-rcnn"],
    doc_md="""
### Train and compare the Mask R-CNN zoo

`materialize` writes the data set as TFRecords, or joins the ranges of shards that tasks `materialize_part` have written.
`open_run` opens the MLflow run that everything below is nested in. Then each chosen zoo config is converted, trained and
evaluated; one that fails leaves the others alone. `compare` puts those that finished side by side, and
`every_backbone_finished` fails the run when one is missing.

*Again*: trigger with the `run_name` of an earlier run, or clear the failed tasks. What is done is skipped, training
goes on from its last checkpoint.

*The GPU*: `train` and `evaluate` take a slot of the pool `gpu`; give it as many slots as trainings may run at a time.

*Logs*: each task shows the output of its step. The button **MLflow run** opens its metrics.
""",
) as dag:

    @task
    def chosen_ranges(params: dict) -> list[str]:
        return params["shard_ranges"]

    records = {"--max-bad": dag.param("max_bad"), "--shards": dag.param("shards"), "--workers": dag.param("workers")}
    materialize_part = StepOperator.partial(
        task_id="materialize_part",
        step="materialize",
        arguments=[dag.param("dataset")],
        options={"--shard-range": "{{ task.instance_name }}", **records},
        map_index_template="{{ task.instance_name }}",
    ).expand(instance_name=chosen_ranges())

    # Without ranges there are no parts, which Airflow calls skipped.
    materialize = StepOperator(
        task_id="materialize",
        step="materialize",
        arguments=[dag.param("dataset")],
        options=records,
        trigger_rule=TriggerRule.NONE_FAILED,
    )
    materialize_part >> materialize

    open_run = StepOperator(
        task_id="open_run",
        step="open-run",
        arguments=[RUN_DIR],
        options={"--dataset": materialize.output["dataset"]},
    )

    @task
    def chosen_configs(params: dict) -> list[str]:
        return params["configs"]

    @task_group
    def backbone(config: str) -> None:
        named = {
            "instance_name": config,
            "map_index_template": "{{ task.instance_name }}",
            "mlflow_url": "{{ ti.xcom_pull(task_ids='open_run')['summary']['mlflow_url'] }}",
        }
        # Evaluating a model comes before training the next, so that results arrive as early as they can.
        on_gpu = {"pool": "gpu", "weight_rule": "absolute"}

        convert = StepOperator(
            task_id="convert",
            step="convert",
            arguments=[config],
            options={
                "--dataset": materialize.output["dataset"],
                "--output": f"{RUN_DIR}/{{{{ task.instance_name }}}}",
                "--set": dag.param("config_fields"),
                "--checkpoint": dag.param("checkpoint"),
                "--checkpoint-label-map": dag.param("checkpoint_label_map"),
            },
            **named,
        )
        train = StepOperator(
            task_id="train",
            step="train",
            arguments=[convert.output["model"]],
            options={
                "--image-size": dag.param("image_size"),
                "--steps": dag.param("steps"),
                "--batch-size": dag.param("batch_size"),
                "--learning-rate": dag.param("learning_rate"),
                "--precision": dag.param("precision"),
                "--proposals": dag.param("proposals"),
            },
            priority_weight=1,
            **on_gpu,
            **named,
        )
        StepOperator(
            task_id="evaluate",
            step="evaluate",
            arguments=[train.output["model"]],
            priority_weight=2,
            **on_gpu,
            **named,
        )

    backbones = backbone.expand(config=chosen_configs())

    compare = StepOperator(
        task_id="compare",
        step="compare",
        arguments=[RUN_DIR],
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )

    # Runs nothing: its trigger rule (all succeeded) is what fails the run.
    every_backbone_finished = EmptyOperator(task_id="every_backbone_finished")

    open_run >> backbones >> [compare, every_backbone_finished]
    compare >> every_backbone_finished
