"""The doors that people come through: a run triggered in Airflow's form, and its models compared in MLflow."""

from __future__ import annotations

import time
from http import HTTPStatus

import pytest
import stack
from airflow_pages import PATIENCE_MS, TriggerForm, open_dag
from airflow_rest import AirflowRest
from mlflow_rest import experiment_pages
from playwright.sync_api import Browser, Page, expect

expect.set_options(timeout=PATIENCE_MS)

CONFIG = "mask_rcnn_inception_v2_coco"
DATASET = "name: tiny\nshapes: {train: 2, val: 2, height: 64, width: 80, seed: 3}\n"
LONGEST_RUN_SECONDS = 900.0


@pytest.fixture
def form(page: Page, settings: stack.Settings) -> TriggerForm:
    open_dag(page, settings, stack.DAG_ID)
    return TriggerForm(page)


def test_form_can_be_sent_the_moment_it_opens(form: TriggerForm) -> None:
    expect(form.send).to_be_enabled()
    expect(form.field("dataset")).to_be_visible()
    for closed in ("steps", "checkpoint", "shard_ranges", "config_fields"):
        expect(form.field(closed)).to_be_hidden()


def test_form_offers_the_datasets_that_there_are(form: TriggerForm) -> None:
    offered = [option.get_attribute("value") for option in form.dialog.locator("datalist#list_dataset option").all()]
    here = sorted(path.relative_to(stack.REPOSITORY).as_posix() for path in (stack.REPOSITORY / "configs/datasets").glob("*.yaml"))
    assert sorted(filter(None, offered)) == here


def test_field_that_may_be_empty_can_be(form: TriggerForm) -> None:
    form.open("Training")
    for name in ("steps", "batch_size", "image_size", "learning_rate"):
        form.put(name, "")
    expect(form.send).to_be_enabled()


def test_form_cannot_be_sent_without_a_dataset(form: TriggerForm) -> None:
    form.put("dataset", "")
    expect(form.send).to_be_disabled()
    expect(form.dialog.get_by_text("This field is required")).to_be_visible()


@pytest.mark.parametrize(("section", "name", "value"), [("", "run_name", "../elsewhere"), ("Data", "shard_ranges", "4")])
def test_wrong_value_is_refused_in_the_form_and_makes_no_run(
    page: Page, settings: stack.Settings, form: TriggerForm, section: str, name: str, value: str
) -> None:
    if section:
        form.open(section)
    form.put(name, value)
    with page.expect_response(lambda response: response.request.method == "POST" and "dagRuns" in response.url) as answer:
        form.send.click()
    assert answer.value.status == HTTPStatus.BAD_REQUEST
    expect(form.dialog.get_by_text(f"Invalid input for param {name}")).to_be_visible()
    expect(form.field(name)).to_have_value(value)
    assert AirflowRest(settings.airflow_url, stack.LOGIN).runs(stack.DAG_ID) == []


@pytest.fixture(scope="module")
def run(browser: Browser, settings: stack.Settings) -> str:
    """The id of a run of one backbone and two steps, sent from the form and green."""
    dataset = settings.workspace / "tiny.yaml"
    dataset.write_text(DATASET)
    with browser.new_context(viewport={"width": 1500, "height": 1000}) as context:
        page = context.new_page()
        open_dag(page, settings, stack.DAG_ID)
        form = TriggerForm(page)
        form.put("dataset", str(dataset))
        form.put("run_name", "from_the_form")
        airflow = AirflowRest(settings.airflow_url, stack.LOGIN)
        zoo = sorted(path.stem for path in (stack.REPOSITORY / "configs/zoo").glob("*.config"))
        for config in zoo:
            if config != CONFIG:
                form.drop_config(config)
        form.open("Training")
        form.put("steps", "2")
        form.put("image_size", "64")
        form.open("Advanced")
        form.put("proposals", "16")
        form.send.click()
        expect(form.dialog).to_be_hidden()
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    while not (runs := airflow.runs(stack.DAG_ID)):
        assert time.monotonic() < deadline, "the form made no run"
        time.sleep(1)
    (run,) = runs
    while (state := airflow.run_state(stack.DAG_ID, run)) not in ("success", "failed"):
        assert time.monotonic() < deadline, f"the run is still {state}"
        time.sleep(1)
    assert state == "success", airflow.task_instances(stack.DAG_ID, run)
    return run


def test_run_from_the_form_is_green(page: Page, settings: stack.Settings, run: str) -> None:
    open_dag(page, settings, f"{stack.DAG_ID}/runs/{run}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()


@pytest.fixture
def mlflow_page(page: Page, settings: stack.Settings, run: str) -> Page:
    """The page that the button `MLflow run`, among the details of the task `compare`, opens in a new tab."""
    open_dag(page, settings, f"{stack.DAG_ID}/runs/{run}/tasks/compare/details")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="MLflow run").first.click()
    # MLflow draws what is in the window only.
    opened.value.set_viewport_size({"width": 2200, "height": 3400})
    return opened.value


def test_button_leads_to_the_curves_and_pictures_of_these_models(mlflow_page: Page) -> None:
    expect(mlflow_page.get_by_text("1 matching run")).to_be_visible()
    sections = mlflow_page.get_by_test_id("experiment-view-compare-runs-section-header")
    expect(sections).to_contain_text(["accuracy", "losses", "validation pictures", "AP over steps", "speed"])
    # Each of six losses at each of two steps.
    expect(mlflow_page.locator(".js-plotly-plot .scatterlayer .trace path.point").nth(6 * 2 - 1)).to_be_attached()
    for picture in ("pictures/01", "pictures/02"):
        expect(mlflow_page.get_by_text(picture)).to_be_visible()
    drawn = mlflow_page.locator('img[src*="artifact"], img[src^="blob:"]')
    expect(drawn.nth(1)).to_be_visible()
    assert drawn.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def test_button_leads_to_the_comparison_s_page(page: Page, settings: stack.Settings, run: str) -> None:
    open_dag(page, settings, f"{stack.DAG_ID}/runs/{run}/tasks/compare/details")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Comparison", exact=True).first.click()
    shown = opened.value.frame_locator("iframe")
    expect(shown.get_by_role("heading", name="The models")).to_be_visible()
    expect(shown.get_by_role("cell", name="inception_v2").first).to_be_visible()


@pytest.mark.parametrize("width", [1400, 390])
def test_comparison_s_page_fits_a_screen_and_a_telephone(page: Page, settings: stack.Settings, run: str, width: int) -> None:
    del run
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((settings.workspace / "runs" / "from_the_form" / "compare" / "comparison.html").as_uri())
    expect(page.get_by_role("heading", name="The models")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []


def test_experiment_shows_the_backbones_with_their_figures(page: Page, settings: stack.Settings, run: str) -> None:
    del run
    page.set_viewport_size({"width": 2200, "height": 1000})
    (address,) = experiment_pages(settings.mlflow_url).values()
    page.goto(address)
    # The pipeline's own run beside its one backbone's.
    expect(page.get_by_text("2 matching runs")).to_be_visible()
    expect(page.get_by_text(CONFIG).first).to_be_visible()
    wanted = ["mask_ap", "mask_ap50", "box_ap", "seconds_per_image", "images_per_second", "steps", "backbone", "role", "pipeline"]
    headers = page.locator(".ag-header-cell")
    expect(headers.filter(has_text="pipeline")).to_be_visible()
    shown = headers.evaluate_all("cells => cells.map(cell => [cell.getBoundingClientRect().left, cell.innerText.trim()])")
    assert [text for _, text in sorted(shown) if text in wanted] == wanted
