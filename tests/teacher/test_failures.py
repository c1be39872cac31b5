"""What the teacher does when calls fail, and what it never does: lose answers or show the key."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cohere")
from memroute_data_gen.teacher.errors import TeacherError
from tests.servers.base import ANSWER_FAULTS, HTTP_FAULTS
from tests.servers.cohere import KEY, CohereServer
from tests.teacher.helpers import Teacher, read_lines, run_here


def everything_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_every_transient_fault_is_retried_and_costs_nothing_twice(
    tmp_path: Path, fault: str
) -> None:
    with CohereServer(script=(fault, "", fault)) as server:
        run = run_here(server.url, tmp_path / "out.jsonl", 2, timeout_s=0.3, concurrency=1)
        assert server.outcomes == {fault: 2, "answered": 4}
        assert server.repeated == 0
    assert len(run.ledger.accepted) == 2 and run.caller.retries == 2
    assert run.ledger.rejections.total() == 0


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("schema", "schema"),
        ("not_json", "not_json"),
        ("refusal", "refusal"),
        ("surrogate", "not_json"),
    ],
)
def test_useless_answers_are_drawn_anew_and_kept_with_their_reason(
    tmp_path: Path, fault: str, reason: str
) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer(script=("", fault)) as server:  # the conversation of the first item
        run_here(server.url, out, 1, concurrency=1)
        # A formal fault says nothing against the scenario, which is used again; a refusal does.
        assert server.calls == (3 if fault != "refusal" else 4)
    (record,) = read_lines(Path(f"{out}.rejected.jsonl"))
    assert (record["item"], record["draw"], record["stage"]) == (0, 0, "conversation")
    assert record["reason"] == reason and record["detail"] and record["answers"]["conversation"]
    assert [example["metadata"]["draw"] for example in read_lines(out)] == [1]


def test_near_duplicates_are_refused_and_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer(stock_share=0.3) as server:
        run = run_here(server.url, out, 30, concurrency=4)
    assert len(read_lines(out)) == 30
    assert run.ledger.rejections["near_duplicate"] > 0
    assert run.ledger.rejections["repeated_utterance"] > 0
    texts = [turn["content"] for e in read_lines(out) for turn in e["conversation"]]
    assert len(set(texts)) == len(texts)


def test_a_blind_pass_drops_what_it_labels_otherwise(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer(dissent_share=0.4) as server:
        run = run_here(server.url, out, 12, blind_model="command-a-03-2025", concurrency=4)
    assert len(read_lines(out)) == 12
    refused = read_lines(Path(f"{out}.rejected.jsonl"))
    assert {record["reason"] for record in refused} == {"blind_disagreement"}
    assert run.ledger.rejections["blind_disagreement"] == len(refused) > 0
    assert all(record["answers"]["conversation"] for record in refused)


def test_an_invalid_key_stops_at_once_with_one_line_and_is_shown_nowhere(teacher: Teacher) -> None:
    wrong = "co-wrong-KEY-31337"
    with CohereServer() as server:
        status, out, err = teacher.run(server.url, "--num", "50", "--concurrency", "4", key=wrong)
        assert server.calls <= 4
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and "COHERE_API_KEY" in err and "401" in err
    assert wrong not in err and wrong.encode() not in everything_written(teacher.folder)
    with CohereServer() as server:  # nothing was begun: the right key needs no --resume
        assert teacher.run(server.url, "--num", "1")[0] == 0


def test_the_key_is_in_no_file_and_no_output(teacher: Teacher) -> None:
    faults = HTTP_FAULTS + ANSWER_FAULTS
    with CohereServer(fault_rate=0.3, faults=faults, latency_s=0.01) as server:
        status, out, err = teacher.run(server.url, "--num", "12", "--timeout", "0.3")
    assert status == 0 and len(teacher.examples()) == 12
    assert f"12 examples in {teacher.out}" in err and "$" in err
    assert f"{len(teacher.rejected())} refused" in err
    assert KEY not in out + err and KEY.encode() not in everything_written(teacher.folder)


def test_an_unknown_model_stops_at_once_with_one_line(teacher: Teacher) -> None:
    with CohereServer() as server:
        status, _, err = teacher.run(server.url, "--num", "9", "--model", "command-z")
        assert server.calls <= 16
    assert status == 2 and err.count("\n") == 1 and "command-z" in err and "404" in err


def test_without_a_key_nothing_is_called_and_the_remedy_is_named(teacher: Teacher) -> None:
    with CohereServer() as server:
        status, _, err = teacher.run(server.url, "--num", "1", key="")
        assert server.calls == 0
    assert status == 2 and err.count("\n") == 1 and "COHERE_API_KEY" in err and ".env" in err


def test_key_and_endpoint_may_stand_in_a_dotenv_file(teacher: Teacher) -> None:
    with CohereServer() as server:
        (teacher.folder / ".env").write_text(f"COHERE_API_KEY={KEY}\nCO_API_URL={server.url}\n")
        status, _, err = teacher.run("", "--num", "1", key="")
    assert status == 0, err


def test_a_dry_run_needs_no_key_calls_nothing_and_writes_nothing(teacher: Teacher) -> None:
    with CohereServer() as server:
        status, out, _ = teacher.run(server.url, "--num", "500", "--dry-run", "--blind", key="")
        assert server.calls == 0
    assert status == 0 and "$" in out and "1,725" in out  # 3 calls, 15% drawn again
    assert not teacher.out.exists()


def test_an_endpoint_that_keeps_failing_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with CohereServer(script=("",) * 12, fault_rate=1.0, faults=("503",)) as server:
        with pytest.raises(TeacherError, match="503.*--resume"):
            run_here(server.url, out, 20, concurrency=3, attempts=3)
        assert server.calls <= 12 + 3 * 3 * 3
        paid = dict(server.paid)
    with CohereServer() as server:
        run_here(server.url, out, 20)
        assert not set(server.paid) & set(paid)
    assert len(read_lines(out)) == 20


def test_an_endpoint_that_is_not_there_stops_the_run_at_once(tmp_path: Path) -> None:
    with CohereServer() as server:
        url = server.url
    with pytest.raises(TeacherError, match=r"127\.0\.0\.1"):
        run_here(url, tmp_path / "out.jsonl", 5)


def test_items_that_no_draw_satisfies_are_left_and_named(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    script = ("", "", *("refusal",) * 6)
    with CohereServer(script=script) as server:
        with pytest.raises(TeacherError, match="1 of 2 items were refused 6 times.*refusal"):
            run_here(server.url, out, 2, concurrency=1, max_draws=6)
        assert len(read_lines(out)) == 1
        run_here(server.url, out, 2)
    assert len(read_lines(out)) == 2


def test_a_rate_limit_holds_every_call_back_for_as_long_as_it_says(tmp_path: Path) -> None:
    with CohereServer(script=("429",), retry_after="1", latency_s=0.01) as server:
        run_here(server.url, tmp_path / "out.jsonl", 4, concurrency=4)
        # At most the calls that were under way already come within the second.
        early = [t for t in server.times if t - server.times[0] < 0.95]
        assert len(early) <= 4 + 3


def test_a_wait_of_an_hour_is_not_waited_for(tmp_path: Path) -> None:
    with CohereServer(script=("429",), retry_after="3600") as server:
        with pytest.raises(TeacherError, match="3600 s"):
            run_here(server.url, tmp_path / "out.jsonl", 4, concurrency=1)
        assert server.calls == 1
