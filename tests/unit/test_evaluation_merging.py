"""What several processes write beside each other becomes the folder that one process would have written."""

import shutil

import pytest

from dcam_core.distributed import Processes
from dcam_core.errors import ConfigurationError, UsageError
from dcam_core.evaluation import EvaluatedSample, RunFolder

REQUEST = {"model": "toy"}
FILES = ("words.jsonl", "samples.jsonl", "skipped.jsonl")
COUNT = 7
UNREADABLE = 3


def keep(folder, index):
    """As if the sample had been evaluated: one has no words, one cannot be read."""
    if index == UNREADABLE:
        return folder.skip(index, "no picture")
    rows = tuple(
        {"sample": f"ü{index}", "word": word, "scores": index / 7} for word in ("a", "b")[: index % 3]
    )
    return folder.add(index, EvaluatedSample(f"ü{index}", "a b", (), rows, {"answer": 0.1 * index}))


def opened(path):
    folder = RunFolder(path, REQUEST)
    folder.settle({"samples": COUNT})
    return folder


def beside(path, rank, indices):
    folder = RunFolder(path, REQUEST)
    folder.write_beside(rank)
    for index in indices:
        keep(folder, index)


@pytest.fixture
def whole(tmp_path):
    """The files that one process writes."""
    folder = opened(tmp_path / "whole")
    for index in range(COUNT):
        keep(folder, index)
    return [(folder.path / name).read_bytes() for name in FILES]


@pytest.fixture
def out(tmp_path):
    opened(tmp_path / "out").close()
    return tmp_path / "out"


def files(path):
    return [(path / name).read_bytes() for name in FILES]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_the_files_are_those_of_one_process_whoever_did_what(whole, out, ranks):
    for rank in reversed(range(ranks)):
        beside(out, rank, reversed(range(COUNT)[rank::ranks]))
    folder = RunFolder(out, REQUEST)
    assert not folder.finished
    assert folder.done == set(range(COUNT))
    folder.merge()
    assert folder.finished
    assert files(out) == whole
    assert sorted(path.name for path in out.iterdir()) == sorted((*FILES, "run.json"))


def test_one_launch_at_a_time_writes(whole, out):
    first = opened(out)
    with pytest.raises(UsageError, match=r"another process is writing to .*--devices N"):
        opened(out)
    first.close()
    second = opened(out)
    second.close()
    assert not list(out.glob(".*"))


def test_a_launch_that_waited_for_its_model_continues_what_another_has_done_meanwhile(tmp_path):
    late = RunFolder(tmp_path / "out", REQUEST)
    other = RunFolder(tmp_path / "out", {**REQUEST, "seed": 1})
    first = opened(tmp_path / "out")
    keep(first, 0)
    first.close()
    late.settle({"samples": COUNT})
    assert late.done == {0}
    late.close()
    with pytest.raises(UsageError, match="holds another evaluation: seed"):
        other.settle({"samples": COUNT})


def test_up_to_a_gap_and_on_when_another_process_has_closed_it(whole, out):
    beside(out, 0, [0, 2, 4, 6])
    beside(out, 1, [1])
    folder = opened(out)
    folder.merge()
    assert [line["index"] for line in folder.samples] == [0, 1, 2]
    assert folder.done == {0, 1, 2, 4, 6}
    beside(out, 0, [3])  # the next call: a ledger of its own, though the rank was there before
    beside(out, 1, [5])
    assert len(list((out / "ranks").iterdir())) == 4
    folder.merge()
    assert files(out) == whole


def test_one_process_continues_what_several_have_left(whole, out):
    beside(out, 0, [4, 2])
    beside(out, 1, [1, 5])
    folder = opened(out)
    done = folder.done
    for index in range(COUNT):
        if index in done:
            folder.fetch(index)
        else:
            keep(folder, index)
    folder.merge()
    assert files(out) == whole
    assert not (out / "ranks").exists()


def test_what_a_process_did_not_complete_is_done_again(whole, out):
    beside(out, 0, [0, 1, 2])
    beside(out, 1, [4, 5])
    for name, end in (("words.jsonl", b'{"sample": "wo'), ("samples.jsonl", b'{"index": 6, "sam')):
        with (out / "ranks/1" / name).open("ab") as file:
            file.write(end)
    assert opened(out).done == {0, 1, 2, 4, 5}
    beside(out, 1, [3, 6])
    opened(out).merge()
    assert files(out) == whole


def test_a_merge_that_was_cut_off_merges_nothing_twice(whole, out, tmp_path):
    beside(out, 0, range(COUNT))
    shutil.copytree(out / "ranks", tmp_path / "kept")
    opened(out).merge()
    # All was merged but the last sample, whose words alone had arrived, and no ledger was removed.
    samples = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (out / "samples.jsonl").write_bytes(b"".join(samples[:-1]))
    shutil.copytree(tmp_path / "kept", out / "ranks")
    opened(out).merge()
    assert files(out) == whole


def test_a_sample_that_two_have_done_counts_once(whole, out):
    beside(out, 0, [0, 1, 2, 3])
    beside(out, 1, [2, 3, 4, 5, 6])
    opened(out).merge()
    assert files(out) == whole


def test_a_process_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(UsageError, match="all nodes share"):
        RunFolder(tmp_path / "elsewhere", REQUEST).write_beside(1)


# -- how many ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (({}, 0, 1, None), "devices is 0"),
        (({}, "many", 1, None), "devices is 'many'"),
        (({}, 2, 0, None), "nodes is 0"),
        (({}, 2, 1, "fsdp"), "device_map"),
        (({"device": "cuda:1"}, 2, 1, None), "give 'cuda'"),
        (({"device_map": "auto"}, 2, 1, None), "device_map"),
    ],
)
def test_what_cannot_be_shared_is_refused(asked, what):
    with pytest.raises(ConfigurationError, match=what):
        Processes.asked(*asked)


def test_one_process_unless_more_are_asked_for():
    assert Processes.asked({"device": "cuda:1"}, None, 1, None) is None
    assert Processes.asked({"device": "cuda"}, "4", 2, None) == Processes("cuda", 4, 2, "ddp")
    assert Processes.asked({}, None, 2, None) == Processes("cpu", "auto", 2, "ddp")
