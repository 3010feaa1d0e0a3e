"""The report: what it says is what the tables hold, and it is one page that asks for nothing and runs nothing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from markupsafe import escape
from PIL import Image
from tiny_run import train_two_stages
from warehouse_builder import HOSTILE_NAME, STEPS, build_warehouse

from curation.selection.filters import SCORES
from screen.report import build_report
from screen.report.examples import MAX_PER_REASON, MethodRow, caption_methods, examples
from screen.report.footage import read_videos
from screen.report.pictures import THUMBNAIL_PX
from screen.report.scenes import MAX_VIDEOS, scenes
from screen.report.scores import judged, score_charts
from screen.report.training import read_runs
from tasks.sampling import PROMPTS, SHEET
from warehouse.audit import audit
from warehouse.errors import CutroomError
from warehouse.ledger import Ledger
from warehouse.plan import Plan, Step
from warehouse.store import Store

VOID = {"meta", "img", "br", "rect", "line", "path"}


class Page(HTMLParser):
    """The page as a browser would see it: elements with attributes, text, and whether every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == [], f"left open: {self.open}"
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return build_warehouse(tmp_path_factory.mktemp("report") / "warehouse")


@pytest.fixture(scope="module")
def page(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(ledger, tmp_path_factory.mktemp("page"))


def _page(ledger: Ledger, folder: Path, runs: tuple[Path, ...] = ()) -> Page:
    return Page(build_report(ledger, folder / "report.html", runs=runs, title="A title & more"))


def _copy(ledger: Ledger, folder: Path) -> Ledger:
    return Ledger(Store(shutil.copytree(ledger.store.root, folder / "warehouse")), ledger.plan)


def _section(page: Page, id_: str) -> str:
    """The words of one section."""
    inside = re.search(rf'<section id="{id_}".*?</section>', page.source, re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", inside[0])
    return " ".join(text.split())


def test_the_page_asks_for_nothing_and_runs_nothing(page: Page) -> None:
    for tag, attrs in page.elements:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in page.elements}
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy["content"]


def test_names_and_words_of_strangers_are_shown_as_they_are(page: Page) -> None:
    assert HOSTILE_NAME in page.words
    assert "<script" not in page.source.lower()
    assert str(escape(HOSTILE_NAME)) in page.source
    assert "returned no boxes <b>" in page.words
    assert not page.all("b") or "returned no boxes <b>" not in page.source


def test_headings_landmarks_and_names_for_those_who_do_not_see_it(page: Page) -> None:
    levels = [int(t[1]) for t, _ in page.elements if t in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert [len(page.all(t)) for t in ("main", "nav", "html")] == [1, 1, 1]
    assert page.all("html")[0]["lang"] == "en"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert max(Counter(ids).values()) == 1
    targets = [a["href"][1:] for a in page.all("a")]
    assert set(targets) <= set(ids) and len(targets) > 8
    assert all(i["alt"] for i in page.all("img"))
    assert all(s["role"] == "img" and s["aria-label"] for s in page.all("svg"))
    for section in page.all("section"):
        assert section["aria-labelledby"] in ids
    assert len(page.all("caption")) == len(page.all("table")) - 1
    assert "width=device-width" in page.source and "prefers-color-scheme: dark" in page.source


def test_the_same_warehouse_gives_the_same_page(ledger: Ledger, page: Page, tmp_path: Path) -> None:
    assert _page(ledger, tmp_path).source == page.source


def test_the_summary_counts_what_the_audit_counts(ledger: Ledger, page: Page) -> None:
    counts = audit(ledger).tables
    split = audit(ledger).selections["default"]
    assert f"{counts['sources'].expected} sources came in" in page.words
    assert f"{split['in']} clips, of which the selection default kept {split['kept']}" in page.words
    assert " balanced " in page.words and "does not balance" not in page.words


def test_every_failure_and_every_skip_is_counted_with_its_cause(ledger: Ledger, page: Page) -> None:
    for name, count in audit(ledger).tables.items():
        rows = ledger.read_all(name)
        for state in ("failed", "skipped"):
            where = _section(page, state)
            causes = (
                Counter(rows.filter(pl.col("state") == state)["cause"]) if "state" in rows.columns else {}
            )
            for cause, n in causes.items():
                assert re.search(rf"{cause}\b.*?\b{n}\b.*?\b{name}\b", where), (name, state, cause, n)
            assert sum(causes.values()) == getattr(count, state)
            others = set(rows.filter(pl.col("state") != state)["cause"].drop_nulls()) if causes else set()
            assert not [c for c in others - set(causes) if c in where]
    assert "gone.mp4" in _section(page, "failed") and "there is no such file" in page.words
    assert "notes.txt" in _section(page, "skipped")


def test_seconds_add_up_to_the_footage(ledger: Ledger, page: Page) -> None:
    glance = page.source.split("What became of every second")[1]
    grown = [float(g) for g in re.findall(r"flex-grow:([0-9.]+)", glance.split("</div>")[0])]
    done = ledger.read_all("videos").filter(pl.col("state") == "done")
    assert sum(grown) == pytest.approx(done["duration_s"].sum(), abs=0.01)
    clips = ledger.read_all("clips").join(ledger.read_all("verdicts"), on="clip_id")
    assert grown[0] == pytest.approx(clips.filter("kept")["duration_s"].sum(), abs=0.001)


def test_the_funnel_is_what_the_tables_give(ledger: Ledger, page: Page) -> None:
    """Counted again from scores and the frozen file, without the selection's own code."""
    frozen = json.loads(
        Path(ledger.store.root, f"selections/default.{ledger.plan.keys['verdicts']}.json").read_text()
    )
    left = ledger.read_all("clips").filter(pl.col("state") == "done").select("clip_id")
    whole = left
    said = _section(page, "funnel")
    for threshold in frozen["thresholds"]:
        score = SCORES[threshold["score"]]
        values = ledger.read_all(score.table, ["clip_id", score.column, "state"])
        column = pl.col(score.column)
        good = column >= threshold["value"] if score.better == "high" else column <= threshold["value"]
        let_be = (pl.col("state") == "skipped") | (pl.col("state") == "done") & column.is_null()
        passing = values.filter(good.fill_null(False) | let_be).select("clip_id")
        came, alone = left.height, whole.height - whole.join(passing, on="clip_id").height
        left = left.join(passing, on="clip_id")
        row = rf"{threshold['score']} . .*? {left.height} \d+% {came} {came - left.height}\b.*? {alone}\b"
        assert re.search(row, said), (row, said)
    assert left.height == ledger.read_all("verdicts")["kept"].sum()


def test_a_histogram_holds_every_score_and_splits_it_by_fate(ledger: Ledger) -> None:
    clips = judged(ledger)
    for chart in score_charts(ledger, clips):
        score = SCORES[chart.name]
        rows = ledger.read_all(score.table, ["clip_id", score.column, "state"])
        rows = rows.filter(pl.col("state") == "done", pl.col(score.column).is_not_null())
        assert chart.num_scored == rows.height
        judged_rows = rows.join(ledger.read_all("verdicts"), on="clip_id")
        drawn = _bar_heights(chart.svg)
        unit = sum(sum(v) for v in drawn.values()) / rows.height
        kept = judged_rows.filter("kept").height
        failing = judged_rows.filter(pl.col("failed_filters").list.contains(chart.name)).height
        assert sum(drawn["kept"]) == pytest.approx(unit * kept, rel=0.02)
        assert sum(drawn["fails"]) == pytest.approx(unit * failing, rel=0.02)


def test_on_a_histogram_no_rejected_clip_lies_on_the_kept_side(ledger: Ledger) -> None:
    for chart in score_charts(ledger, judged(ledger)):
        if chart.rule is None:
            continue
        at = float(re.search(r'class="mark" x1="([0-9.]+)"', chart.svg)[1])
        bars = re.findall(r'<rect class="(fails|other|kept)" x="([0-9.]+)"[^>]* width="([0-9.]+)"', chart.svg)
        rejected = {float(x) + float(width) / 2 < at for css, x, width in bars if css == "fails"}
        passing = {float(x) + float(width) / 2 < at for css, x, width in bars if css != "fails"}
        assert len(rejected) == len(passing) == 1 and rejected != passing, chart.name


def _bar_heights(svg: str) -> dict[str, list[float]]:
    heights: dict[str, list[float]] = {"kept": [], "fails": [], "other": [], "plain": []}
    for css, height in re.findall(r'<rect class="(kept|fails|other|plain)"[^>]*height="([0-9.]+)"', svg):
        heights[css].append(float(height))
    return heights


def test_embedded_scores_are_marked_where_they_stand_and_others_are_not(ledger: Ledger, page: Page) -> None:
    by_name = {c.name: c for c in score_charts(ledger, judged(ledger))}
    assert {n for n, c in by_name.items() if c.is_embedded} == {"aesthetics", "similarity"}
    warned = _section(page, "scores").count("embedded: means nothing beyond the sample reel")
    assert warned == 2
    assert by_name["motion"].unit in page.words
    marked = {m.method: m.is_embedded for m in caption_methods(ledger)}
    assert marked == {"coca-embedded": True, "coca-embedded-8-frames+flow": True, "merge": False}
    assert not MethodRow("frame", "coca-/models/embedded_clips", 1, 0).is_embedded


def test_pictures_beside_a_cut_are_of_the_scenes_on_either_side(ledger: Ledger) -> None:
    """Each scene is one generated shot, so every frame of it looks like the others and unlike its neighbours'."""
    videos = read_videos(ledger).filter(pl.col("state") == "done")
    spans = _spans(ledger)
    found = scenes(ledger, videos, spans)
    assert len(found.views) == 4
    checked = 0
    for view in found.views:
        frames = _grid(ledger, view.video_id, videos)
        for cut in view.cuts:
            start = cut.time_s - cut.transition_s
            assert start - 0.5 <= cut.before_s < start and cut.time_s <= cut.after_s <= cut.time_s + 0.5
            for picture, at in ((cut.before, cut.before_s), (cut.after, cut.after_s)):
                shown_pixels = _pixels(picture.uri)
                errors = {t: np.abs(p - shown_pixels).mean() for t, p in frames.items()}
                (own,) = [e for t, e in errors.items() if t == pytest.approx(at)]
                assert own == min(errors.values())
                checked += 1
    assert checked == 24


def _spans(ledger: Ledger) -> pl.DataFrame:
    fates = judged(ledger).frame.select("clip_id", "kept", "rejected_by")
    return ledger.read_all("clips").join(fates, on="clip_id", how="left")


def _grid(ledger: Ledger, video_id: str, videos: pl.DataFrame) -> dict[float, np.ndarray]:
    video = videos.row(by_predicate=pl.col("video_id") == video_id, named=True)
    rows = ledger.read_all("grid_frames").filter(pl.col("video_id") == video_id)
    tick_s = video["time_base_num"] / video["time_base_den"]
    return {
        (p - video["start_pts"]) * tick_s: np.asarray(Image.open(io.BytesIO(j)), float)
        for p, j in rows.select("pts", "jpeg").iter_rows()
    }


def _pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))), float)


def test_examples_carry_their_captions_scores_and_reasons(ledger: Ledger, page: Page) -> None:
    verdicts = ledger.read_all("verdicts")
    captions = dict(ledger.read_all("captions", ["clip_id", "video_caption"]).iter_rows())
    cards = {
        re.search(r"<code>([0-9a-f]{12})</code>", c)[1]: " ".join(re.sub(r"<[^>]*>", " ", c).split())
        for c in re.findall(r'<article class="card clip">.*?</article>', page.source, re.DOTALL)
    }
    for row in verdicts.iter_rows(named=True):
        card = cards[row["clip_id"][:12]]
        assert captions[row["clip_id"]] in card
        if row["kept"]:
            assert "Rejected." not in card
        else:
            assert re.search(rf"Rejected\. {row['rejected_by'].split(':')[0]}\b", card)
    assert len(cards) == verdicts.height


def test_of_a_large_warehouse_a_sample_is_shown_and_said_to_be_one(tmp_path: Path) -> None:
    big = build_warehouse(tmp_path / "warehouse", videos=14, clips_per_video=5)
    page = _page(big, tmp_path)
    assert f"Shown: {MAX_VIDEOS} of 14 videos with cuts" in page.words
    kept = int(big.read_all("verdicts")["kept"].sum())
    assert f"Shown: 9 of {kept} kept clips" in page.words
    reasons = set(big.read_all("verdicts")["rejected_by"].drop_nulls())
    rejected = _section(page, "rejected")
    for reason in reasons:
        score, _, missing = reason.partition(":")
        assert re.search(
            rf"Rejected\. {score}: it has no" if missing else rf"Rejected\. {score} is", rejected
        )
    videos, spans = read_videos(big), _spans(big)
    clips = judged(big)
    rejected_by = pl.when(~pl.col("kept")).then(pl.lit("sharpness"))
    for_one_reason = replace(clips, frame=clips.frame.with_columns(rejected_by=rejected_by))
    assert len(examples(big, for_one_reason, spans, videos).rejected) == MAX_PER_REASON
    assert len(page.source) < 3_000_000
    assert all(int(i["width"]) <= THUMBNAIL_PX for i in page.all("img"))


def test_a_warehouse_that_does_not_balance_says_so_and_names_what_is_wrong(
    ledger: Ledger, tmp_path: Path
) -> None:
    copy = _copy(ledger, tmp_path)
    part = next(iter(copy.parts("summaries").values()))[0]
    Path(copy.store.path(part.path)).unlink()
    page = _page(copy, tmp_path / "out")
    assert "not balanced" in page.words and "does not balance" in page.words
    assert re.search(r"Not settled yet: summaries \d", page.words)


def steps_to(last: str) -> list[Step]:
    """The steps of a curation up to one of this name."""
    names = [step.name for step in STEPS]
    return list(STEPS[: names.index(last) + 1])


@pytest.mark.parametrize("last", [None, "assign", "cut"])
def test_a_warehouse_that_is_not_finished_has_a_page(tmp_path: Path, last: str | None) -> None:
    """From nothing at all over sources and shards to clips without a score."""
    full = build_warehouse(tmp_path / "full", videos=2)
    keep = {t for s in (steps_to(last) if last else ()) for t in s.writes}
    for table in set(full.plan.keys) - keep:
        shutil.rmtree(Path(full.store.root, table))
    shutil.rmtree(Path(full.store.root, "selections"))
    page = _page(full, tmp_path)
    assert "nothing has been selected yet" in page.words
    assert "Not trained yet" in _section(page, "training")
    if last != "cut":
        assert "There is no clip yet" in _section(page, "scores")
    else:
        assert "not judged" in page.words


def test_a_plan_without_annotators_has_a_page(tmp_path: Path) -> None:
    store = Store(tmp_path / "warehouse")
    plan = Plan.of(steps_to("cut"))
    plan.save(store)
    page = _page(Ledger(store, plan), tmp_path)
    assert "No clip has a caption" in page.words and "0 sources came in" in page.words


def _run(folder: Path, events: list[dict] | None, done: bool = False) -> Path:
    folder.mkdir(parents=True)
    recipe = {
        "stage": "high_quality",
        "num_samples": 100,
        "batch_size": 8,
        "single_frames": False,
        "lr": 3e-4,
    }
    recipe |= {"p_mean": 0.0, "p_std": 1.0, "text_dropout": 0.15}
    run = {"recipe": recipe, "dataset": "d", "init_from": "w", "digest": "e"}
    (folder / "run.json").write_text(json.dumps(run))
    if events is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if done:
        (folder / "done.json").write_text("{}")
    return folder


def _step(samples: int, loss: float) -> dict:
    return {
        "event": "step",
        "step": samples // 8,
        "samples": samples,
        "loss": loss,
        "step_s": 0.25,
        "data_wait_share": 0.5,
    }


def _held_out(samples: int, *ratios: float) -> dict:
    buckets = [
        {"low": 0.1 * 2**i, "high": 0.2 * 2**i, "loss": r, "zero_loss": 1.0, "ratio": r}
        for i, r in enumerate(ratios)
    ]
    return {"event": "held_out", "step": samples // 8, "samples": samples, "buckets": buckets}


def test_a_run_is_read_to_its_last_whole_event(tmp_path: Path) -> None:
    events = [
        {"event": "start", "step": 0},
        _step(8, 1.0),
        _held_out(8, 0.9, 0.8),
        _step(96, 0.5),
        _held_out(96, 0.4, 1.3),
    ]
    folder = _run(tmp_path / "run", events)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "sam')
    (view,) = read_runs([folder])
    assert (view.stage, view.is_done, view.samples, view.total_samples) == ("high quality", False, 96, 96)
    assert [(lv.name, lv.ratio, lv.width) for lv in view.levels] == [
        ("0.1 to 0.2", 0.4, 0.4),
        ("0.2 to 0.4", 1.3, 1.0),
    ]
    facts = dict(view.facts)
    assert (facts["time a step"], facts["waiting for data"]) == ("0.250 s", "50.0%")
    assert facts["began from"] == "an earlier stage's weights"
    assert "from 1 to 0.5 over 96 samples" in view.loss


# Raised by Lightning over its own use of torch's trees.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_real_runs_are_told_as_they_ended(tmp_path: Path) -> None:
    runs = train_two_stages(build_warehouse(tmp_path / "warehouse", packed=True))
    for view, folder in zip(read_runs(runs), runs, strict=True):
        done = json.loads((folder / "done.json").read_text())
        assert (view.stage, view.is_done, view.samples) == (done["stage"], True, done["samples"])
        assert [lv.ratio for lv in view.levels] == [b["ratio"] for b in done["held_out"]]
        assert view.loss is not None
    first, second = read_runs(runs)
    assert dict(first.facts)["began from"] == "random weights"
    assert dict(second.facts)["began from"] == "an earlier stage's weights"
    assert first.held_out.count("<path") == len(first.levels)


def test_what_a_run_lacks_is_said(tmp_path: Path, ledger: Ledger) -> None:
    fresh, blind = _run(tmp_path / "fresh", None), _run(tmp_path / "blind", [_step(8, 1.0)], done=True)
    said = _section(_page(ledger, tmp_path, (fresh, blind)), "training")
    assert said.count("not finished") == 1
    assert "Nothing has been logged yet" in said
    assert "Not measured: no clip is held out" in said
    assert said.count("Nothing has been sampled from this stage") == 2
    with pytest.raises(CutroomError, match=r"holds no training run: there is no run\.json"):
        read_runs([tmp_path])


def test_a_damaged_record_is_named_and_not_passed_over(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", [_step(8, 1.0)])
    whole = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text("{broken\n" + whole)
    with pytest.raises(CutroomError, match=r"line 1 of .*metrics\.jsonl is no event"):
        read_runs([folder])


def test_samples_stand_with_the_prompts_that_asked_for_them(tmp_path: Path, ledger: Ledger) -> None:
    samples = _run(tmp_path / "run", [_step(8, 1.0)], done=True) / "samples"
    samples.mkdir()
    for i in range(10):
        (samples / f"{i:03d}.mp4").write_bytes(b"video %d" % i)
    Image.fromarray(np.full((64, 512, 3), 90, np.uint8)).save(samples / SHEET)
    (samples / PROMPTS).write_text(json.dumps([f"a <red> star {i}" for i in range(10)]))
    page = _page(ledger, tmp_path, (tmp_path / "run",))
    videos = page.all("video")
    assert [base64.b64decode(v["src"].split(",")[1]) for v in videos] == [b"video %d" % i for i in range(8)]
    assert [v["aria-label"] for v in videos] == [f"sampled video: a <red> star {i}" for i in range(8)]
    assert "Shown: 8 of 10" in page.words and "a <red> star 7" in page.words
    assert page.all("img")[-1]["alt"] == "Contact sheet of sampled videos"
    (samples / PROMPTS).write_text(json.dumps(["one"]))
    with pytest.raises(CutroomError, match=r"10 videos, but prompts\.json has 1 prompts"):
        read_runs([tmp_path / "run"])
