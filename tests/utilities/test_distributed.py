"""The helpers of several ranks, in one process and in three."""

import torch
from forked_ranks import on_ranks

from accelerator.utilities import distributed


def test_one_process_needs_nobody(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    value = torch.tensor(2.0)
    assert (distributed.rank(), distributed.size(), distributed.launched()) == (0, 1, None)
    assert distributed.from_main("x") == "x"
    assert distributed.of_all(3) == [3]
    assert distributed.total([1.0, 2]) == [1.0, 2]
    assert distributed.mean_(value) is value
    assert value == 2
    distributed.start("gloo", 5)
    distributed.stop()


def test_three_ranks_say_the_same(tmp_path):
    def say(rank):
        assert (distributed.rank(), distributed.launched()) == (rank, 3)  # known before they have met
        distributed.start("gloo", 60)
        tensor = torch.full((2,), float(rank))
        distributed.copy_from_main([tensor])
        said = (
            distributed.size(),
            distributed.from_main(f"rank {rank}"),
            distributed.of_all(rank * 10),
            distributed.total([rank, 1]),
            distributed.mean_(torch.tensor(float(rank))).item(),
            tensor.tolist(),
        )
        distributed.stop()
        return said

    expected = (3, "rank 0", [0, 10, 20], [3.0, 3.0], 1.0, [0.0, 0.0])
    assert on_ranks(3, say, tmp_path) == [expected] * 3
