"""The page as text: what it holds, what it must never hold."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser

import pytest

from memroute_data_gen.compose import Composer
from memroute_env.conversation import write_examples
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.errors import DataError
from memroute_eval.evaluate import evaluate
from memroute_eval.report import write_report

VOID = {"meta", "link", "input", "wbr", "br", "img"}


class Page(HTMLParser):
    """Counts elements, collects ids and links, and insists that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


@pytest.fixture(scope="module")
def page(tmp_path_factory, results, dataset, curve_rows) -> str:
    out = tmp_path_factory.mktemp("report") / "sub" / "report.html"
    write_report([results], out, [{"name": "run", "rows": curve_rows}], data=dataset)
    return out.read_text(encoding="utf-8")


def test_page_is_well_formed_and_every_inner_link_has_its_target(page):
    parsed = Page(page)
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    inner = {link[1:] for link in parsed.links if link.startswith("#") and "?" not in link}
    assert inner <= set(parsed.ids)


def test_page_loads_nothing(page):
    parsed = Page(page)
    assert all(link.startswith(("#", "data:image/svg+xml")) for link in parsed.links)
    assert "style" not in parsed.attributes
    assert not any(name.startswith("on") for name in parsed.attributes)
    assert "@import" not in page and "url(" not in page
    assert "default-src 'none'" in page


def test_page_answers_the_questions_in_order(page):
    order = ["who", "where", "what", "learnt", "cost", "trust", "targets", "published", "scenarios"]
    places = [page.index(f'id="{anchor}"') for anchor in order]
    assert places == sorted(places)
    for title in ("Loss", "Reward", "Reward components", "KL divergence", "Entropy", "Held-out"):
        assert f"<b>{title}</b>" in page


def test_figures_of_the_page_are_those_of_the_results(page, results):
    agent = results["agents"]["chat:model"]
    low, high = agent["ci95"]["reward"]
    assert f"Mean reward {agent['reward']:.3f}" in page
    assert f"95% interval {low:.3f} to {high:.3f}" in page
    assert f'<span class="big">{agent["false_store_rate"]:.0%}</span>' in page
    assert f"{agent['n_failed']} of 40" in page
    assert f"{agent['latency_p95_ms']:.3g} ms" in page


def test_the_oracle_is_a_ceiling_and_not_the_winner(page, results):
    heading = re.search(r'<h1 id="who-h">(.*?)</h1>', page, re.S)
    assert heading and "oracle" not in heading[1] and "chat:" in heading[1]


def test_published_rows_stand_apart_from_what_was_measured(page):
    before, block = page.split('id="published"')
    block = block.split("</section>")[0]
    assert "Command-R+" in block and "0.680" in block and "not measured here" in block
    assert "Command-R+" not in before


def test_every_scenario_is_there_with_its_text_and_evidence(page, dataset):
    parsed = Page(page)
    for example in dataset:
        assert f"s-{example.id}" in parsed.ids
    shown = sum(len(set().union(*e.labels.evidence.values(), ())) for e in dataset)
    assert len(re.findall(r'class="turn \w+ ev', page)) == shown


def test_equal_input_gives_an_equal_page(tmp_path, results, dataset):
    for name in ("a.html", "b.html"):
        write_report([results], tmp_path / name, data=dataset)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_text_is_shown_only_if_the_data_are_those_of_the_results(tmp_path, results, dataset):
    out = tmp_path / "report.html"
    write_report([results], out)
    page = out.read_text()
    assert 'id="no-text"' in page and "were found, neither shipped nor beside" in page
    assert 'class="talk"' not in page and 'class="chip missed"' in page
    other = Dataset(dataset[:39], dataset.taxonomy, name="composed-40")
    write_report([results], out, data=other)
    page = out.read_text()
    assert "have changed since the results were made" in page and 'class="talk"' not in page


def test_a_file_that_results_name_is_not_quoted(tmp_path, results):
    secret = tmp_path / "secret.txt"
    secret.write_text("api_key = 12345")
    named = {**results, "dataset": {**results["dataset"], "name": str(secret)}}
    write_report([named], tmp_path / "report.html")
    assert "12345" not in (tmp_path / "report.html").read_text()


def test_data_beside_the_results_are_found(tmp_path, dataset):
    write_examples(tmp_path / "mine.jsonl", dataset)
    results = evaluate(["oracle"], load_dataset(tmp_path / "mine.jsonl"), resamples=50)
    (tmp_path / "results.json").write_text(json.dumps(results))
    out = tmp_path / "elsewhere" / "report.html"
    write_report([tmp_path], out)
    assert 'class="talk"' in out.read_text()


def test_hostile_text_stays_text(tmp_path, hostile_results, hostile_dataset):
    out = tmp_path / "report.html"
    write_report([hostile_results], out, data=hostile_dataset)
    text = out.read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.tags["script"] == 1 and parsed.tags["style"] == 1
    assert not {"img", "iframe", "textarea"} & parsed.tags.keys()
    assert parsed.tags["h1"] == 1 and parsed.tags["meta"] == 5 and parsed.tags["link"] == 1
    assert all(link.startswith(("#", "data:image/svg+xml")) for link in parsed.links)
    assert not any(name.startswith("on") for name in parsed.attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_lone_surrogates_do_not_stop_the_report(tmp_path, results):
    changed = json.loads(json.dumps(results))
    changed["agents"]["chat:model"]["examples"][0] |= {"text": "\ud800 half a pair"}
    write_report([changed], tmp_path / "report.html")
    assert "half a pair" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_three_hundred_scenarios_and_four_agents_stay_below_three_megabytes(tmp_path):
    composer = Composer(1, "test")
    data = Dataset([composer(i) for i in range(300)], composer.taxonomy, name="composed-300")
    agents = ["oracle", "random:uniform", "constant:company.brand_core", "constant:none"]
    write_report([evaluate(agents, data, resamples=50)], tmp_path / "r.html", data=data)
    assert (tmp_path / "r.html").stat().st_size < 3_000_000


def test_runs_without_results_give_a_report_of_their_curves(tmp_path, curve_rows):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in curve_rows) + '\n{"st')
    write_report([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "No evaluation yet" in page and "<b>Loss</b>" in page
    assert "could not be read" in page and 'id="scenarios"' not in page


def test_agents_of_the_same_name_are_told_apart(tmp_path, results):
    for name in ("run-1", "run-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    write_report([tmp_path / "run-1", tmp_path / "run-2"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "oracle (run-1)" in page and "oracle (run-2)" in page


def test_one_agent_alone_needs_no_comparison(tmp_path, results):
    alone = {**results, "agents": {"chat:model": results["agents"]["chat:model"]}}
    write_report([alone], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "in reward" in page and "Is it significant?" not in page


def heading(path) -> str:
    found = re.search(r'<h1 id="who-h">(.*?)</h1>', path.read_text(), re.S)
    assert found
    return re.sub(r"<.*?>", "", found[1])


def test_headline_claims_no_more_than_the_test_does(tmp_path, results):
    out = tmp_path / "report.html"
    model, chance = (results["agents"][n] for n in ("chat:model", "random:uniform"))
    write_report([{**results, "agents": {"a": model, "b": model}}], out)
    assert heading(out) == "a is ahead, but not beyond chance"
    write_report([{**results, "agents": {"a": model, "b": model, "c": chance}}], out)
    assert heading(out) == "a leads; b is too close to call"
    write_report([{**results, "agents": {"a": model, "c": chance}}], out)
    assert heading(out) == "a wins"


def test_among_many_agents_the_leader_is_tested_against_each(tmp_path, results):
    model, chance = (results["agents"][n] for n in ("chat:model", "random:uniform"))
    many = {"leader": model, **{f"random {i}": chance for i in range(9)}}
    write_report([{**results, "agents": many}], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    pairs = page.split('<table class="pairs">')[1].split("</table>")[0]
    assert pairs.count('<th scope="row">') == 9 and pairs.count(">leader<") == 9


def test_damaged_results_are_refused_or_drawn_but_never_crash(tmp_path, results, dataset):
    rng = random.Random(0)
    junk = [None, -1, 1e308, 10**400, "", "<b>", [], {}, [None], True, float("inf")]
    refused = 0
    for _ in range(24):
        damaged = json.loads(json.dumps(results))
        parent, key, depth = damaged, "agents", rng.randint(1, 6)
        while depth and isinstance(parent[key], dict | list) and parent[key]:
            parent, depth = parent[key], depth - 1
            key = rng.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
        if isinstance(parent, dict) and rng.random() < 0.3:
            del parent[key]
        else:
            parent[key] = rng.choice(junk)
        try:
            write_report([damaged], tmp_path / "report.html", data=dataset)
        except DataError:
            refused += 1
    assert 6 < refused < 24


def test_results_of_different_data_are_refused(tmp_path, results, hostile_results):
    with pytest.raises(DataError, match="only results on the same data can be compared"):
        write_report([results, hostile_results], tmp_path / "report.html")
    with pytest.raises(DataError, match="holds neither"):
        write_report([tmp_path], tmp_path / "report.html")
