"""When a token was decided, where the sampler may take back what it has accepted."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dcam_adapters.diffusion_gemma.commits import commit_steps

RUNS = st.integers(1, 7).flatmap(
    lambda steps: st.integers(1, 5).flatmap(
        lambda length: st.tuples(
            st.lists(
                st.lists(st.integers(0, 2), min_size=length, max_size=length), min_size=steps, max_size=steps
            ),
            st.lists(
                st.lists(st.booleans(), min_size=length, max_size=length), min_size=steps, max_size=steps
            ),
        )
    )
)


@given(RUNS)
@settings(max_examples=150, deadline=None)
def test_commit_step_is_the_first_after_which_nothing_is_taken_back(run):
    """The definition, one position at a time, in plain Python."""
    tokens, accepted = run
    found = commit_steps(torch.tensor(tokens), torch.tensor(accepted)).tolist()
    last = len(tokens) - 1
    for position, step in enumerate(found):
        holds = [
            when == last or (accepted[when][position] and tokens[when][position] == tokens[last][position])
            for when in range(last + 1)
        ]
        expected = next(first for first in range(last + 1) if all(holds[first:]))
        assert step == expected


@given(RUNS)
@settings(max_examples=100, deadline=None)
def test_a_longer_memory_of_the_same_end_changes_nothing_but_the_count(run):
    """Steps in front that accept nothing shift every commit step by their number."""
    tokens, accepted = torch.tensor(run[0]), torch.tensor(run[1])
    longer = commit_steps(
        torch.cat([tokens[:1], tokens]), torch.cat([torch.zeros_like(accepted[:1]), accepted])
    )
    assert longer.tolist() == (commit_steps(tokens, accepted) + 1).tolist()


def test_a_token_that_is_taken_back_is_decided_when_it_returns():
    tokens = torch.tensor([[5, 1, 3], [5, 2, 3], [9, 2, 3], [5, 2, 4]])
    accepted = torch.tensor([[True, True, True], [True, True, True], [False, True, True], [True, True, True]])
    # 0 became noise in between, 1 another token; what stood at 2 all along is not what the last step says.
    assert commit_steps(tokens, accepted).tolist() == [3, 1, 3]


def test_noise_that_happens_to_be_the_final_token_decides_nothing():
    tokens = torch.tensor([[7], [7], [7]])
    assert commit_steps(tokens, torch.tensor([[True], [False], [False]])).tolist() == [2]


def test_the_arguments_are_left_alone():
    tokens, accepted = torch.tensor([[1], [2]]), torch.tensor([[True], [False]])
    commit_steps(tokens, accepted)
    assert (tokens.tolist(), accepted.tolist()) == ([[1], [2]], [[True], [False]])
