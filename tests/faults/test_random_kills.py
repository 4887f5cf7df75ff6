"""SIGKILL at moments that nothing in the program chooses: a clock in another process does."""

import shutil

import pytest
from faulty import METHODS, assert_ended_as, go, killed_after

KILLS = {1: 2, 2: 2, 3: 1}  # ranks -> kills of one run; with four methods 20


@pytest.mark.parametrize("ranks", KILLS)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_moments(unbroken, ledger, chance, tmp_path, method, ranks):
    whole, seconds = unbroken(*METHODS[method], ranks=ranks)
    run, wanted = tmp_path / "run", KILLS[ranks]
    name = f"SIGKILL at a random moment, {method}, {ranks} {'rank' if ranks == 1 else 'ranks'}"
    with ledger.meets() as met:
        while len(met) < wanted:
            moment = chance.uniform(0.02, 0.9 if not met else 0.6) * seconds
            with killed_after(moment, chance) as happened:
                statuses = go(run, METHODS[method], ranks)
            if happened and any(statuses):
                met.append(name)
                print(f"{method}, {ranks} ranks: killed after {moment:.2f} of {seconds:.2f} s, statuses {statuses}")
            else:
                shutil.rmtree(run)  # it was faster: once more from the start
        assert go(run, METHODS[method], ranks) == [0] * ranks
        assert_ended_as(run, whole)
