"""A teacher that is killed at any moment loses nothing and pays for next to nothing twice."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("cohere")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memroute_data_gen.splits import near_duplicates
from memroute_data_gen.teacher.errors import TeacherError
from memroute_data_gen.teacher.plan import plan_item
from memroute_env.datasets import Dataset, load_dataset
from memroute_env.taxonomy import load_taxonomy
from tests.servers.base import ANSWER_FAULTS, HTTP_FAULTS
from tests.servers.cohere import CohereServer
from tests.teacher.helpers import Teacher, read_lines, run_here

CONCURRENCY = 8


def wait_until_paid(server: CohereServer, calls: int) -> None:
    deadline = time.monotonic() + 30
    while sum(server.paid.values()) < calls:
        assert time.monotonic() < deadline, "the teacher makes no progress"
        time.sleep(0.002)  # polling another process


def check_delivery(out: Path, num: int) -> Dataset:
    """Exactly the planned examples, each once, none like another."""
    taxonomy = load_taxonomy("marketing")
    dataset = load_dataset(out)
    assert len(dataset) == num
    by_id = {example.id: example for example in dataset}
    assert set(by_id) == {f"teacher-0-{index}" for index in range(num)}
    for index in range(num):
        planned = plan_item(0, index, taxonomy).categories
        assert by_id[f"teacher-0-{index}"].labels.categories == planned
    assert near_duplicates(["\n".join(e.conversation.user_texts) for e in dataset]) == []
    return dataset


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed_at_random_points_delivers_exactly_n(
    teacher: Teacher, seed: int
) -> None:
    num, kills = 48, 3
    rng = Random(seed)
    arguments = ["--num", str(num), "--resume", "--concurrency", str(CONCURRENCY)]
    arguments += ["--timeout", "0.5", *(["--blind"] if seed == 2 else [])]
    stages = 3 if seed == 2 else 2
    seen: list[bytes] = []
    with CohereServer(
        fault_rate=0.2,
        faults=HTTP_FAULTS + ANSWER_FAULTS,
        stock_share=0.05,
        dissent_share=0.05,
        latency_s=0.02,
        seed=seed,
    ) as server:
        for point in sorted(rng.sample(range(2, stages * num - 15), kills)):
            process = teacher.start(server.url, *arguments)
            wait_until_paid(server, point)
            process.send_signal(signal.SIGKILL)
            assert teacher.finish(process)[0] == -signal.SIGKILL
            if teacher.out.exists():
                content = teacher.out.read_bytes()
                seen.append(content[: content.rfind(b"\n") + 1])
        status, _, err = teacher.run(server.url, *arguments)
        assert status == 0, err
        assert server.outcomes.total() > server.outcomes["answered"] > 0
        assert server.repeated <= CONCURRENCY * kills
        paid = sum(server.paid.values())
    final = teacher.out.read_bytes()
    assert all(final.startswith(content) for content in seen)  # nothing lost, nothing rewritten
    check_delivery(teacher.out, num)
    rejected = teacher.rejected()
    draws = [(record["item"], record["draw"]) for record in rejected]
    assert len(set(draws)) == len(draws)
    # Every paid answer is accounted for: in the journal, or lost to a kill.
    journal = read_lines(Path(f"{teacher.out}.journal.jsonl"))[1:]
    calls = [(record["item"], record["draw"], record["stage"]) for record in journal]
    assert len(set(calls)) == len(calls)
    assert 0 <= paid - len(calls) <= CONCURRENCY * kills


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(cuts=st.tuples(*[st.floats(0, 1)] * 3))
def test_files_torn_at_any_byte_are_mended(
    tmp_path_factory: pytest.TempPathFactory, cuts: tuple[float, float, float]
) -> None:
    out = tmp_path_factory.mktemp("torn") / "out.jsonl"
    faults = {"fault_rate": 0.2, "faults": ANSWER_FAULTS}
    with CohereServer(**faults) as server:
        run_here(server.url, out, 6)
        for suffix, cut in zip(("", ".rejected.jsonl", ".journal.jsonl"), cuts, strict=True):
            path = Path(f"{out}{suffix}")
            content = path.read_bytes()
            path.write_bytes(content[: int(cut * len(content))])
        run_here(server.url, out, 9)
    check_delivery(out, 9)


def test_examples_that_were_paid_for_are_delivered_again_for_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer() as server:
        run_here(server.url, out, 12)
        before, calls = {e["id"]: e for e in read_lines(out)}, server.calls
        out.unlink()
        run_here(server.url, out, 12)
        assert server.calls == calls
    assert {e["id"]: e for e in read_lines(out)} == before


def test_a_finished_run_can_be_extended_and_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer() as server:
        run_here(server.url, out, 5)
        run_here(server.url, out, 5)
        assert server.calls == 10
        run_here(server.url, out, 8)
        assert server.calls == 16
    check_delivery(out, 8)


def test_an_existing_file_is_only_continued_on_request(teacher: Teacher) -> None:
    with CohereServer() as server:
        assert teacher.run(server.url, "--num", "2")[0] == 0
        before = teacher.out.read_bytes()
        status, _, err = teacher.run(server.url, "--num", "3")
    assert status == 2 and "--resume" in err and err.count("\n") == 1
    assert teacher.out.read_bytes() == before


def test_a_run_of_another_plan_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer() as server:
        run_here(server.url, out, 2)
        with pytest.raises(ValueError, match=r"out\.jsonl.*seed"):
            run_here(server.url, out, 3, seed=5)
        with pytest.raises(ValueError, match=r"journal\.jsonl:1: .*blind False, not True"):
            run_here(server.url, out, 3, blind_model="command-a-03-2025")


@pytest.mark.parametrize("whole_lines", [0, 1])
def test_somebody_elses_file_is_left_as_it_is(tmp_path: Path, whole_lines: int) -> None:
    out = tmp_path / "mine.jsonl"
    examples = [e.to_json() for e in load_dataset("marketing-50")[: whole_lines + 1]]
    out.write_text("\n".join(examples))  # without a final line feed
    before = out.read_bytes()
    with CohereServer() as server:
        with pytest.raises(ValueError, match=r"mine\.jsonl.* is not of this run \(seed 0\)"):
            run_here(server.url, out, 2)
        assert server.calls == 0
    assert out.read_bytes() == before


def test_two_runs_do_not_write_the_same_files(teacher: Teacher) -> None:
    with CohereServer(latency_s=0.05) as server:
        first = teacher.start(server.url, "--num", "60", "--concurrency", "2")
        wait_until_paid(server, 2)
        status, _, err = teacher.run(server.url, "--num", "60", "--resume")
        assert status == 2 and "another run" in err
        first.send_signal(signal.SIGINT)
        status, _, err = teacher.finish(first)
        assert status == 130 and "--resume" in err
        # An interrupted run waits for its calls in flight and keeps them.
        journal = read_lines(Path(f"{teacher.out}.journal.jsonl"))
        assert len(journal) == 1 + sum(server.paid.values())


def test_a_file_changed_by_hand_is_named_with_its_line(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer() as server:
        run_here(server.url, out, 2)
        journal = Path(f"{out}.journal.jsonl")
        lines = journal.read_text().splitlines()
        journal.write_text("\n".join([lines[0], "[]", *lines[1:], ""]))
        with pytest.raises(ValueError, match=r"journal\.jsonl:2"):
            run_here(server.url, out, 3)


def test_an_unwritable_file_stops_the_run_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file, not a folder")
    with CohereServer() as server:
        with pytest.raises((ValueError, TeacherError), match="blocked"):
            run_here(server.url, tmp_path / "blocked" / "out.jsonl", 1)
        assert server.calls == 0
