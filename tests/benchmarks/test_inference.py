import numpy as np
import pytest

import inference


@pytest.fixture
def random():
    return np.random.default_rng(3)


def test_many_studies_at_once_are_judged_as_the_package_judges_one(random):
    inference.check_the_rule(random)


@pytest.mark.parametrize("procedure", ["the rule", "plain t", "permutation", "Wilcoxon"])
def test_the_level_is_held_on_normal_differences(random, procedure):
    values, _ = inference.normal(random, (2000, 8), 0.0)
    share = inference.PROCEDURES[procedure](values, 0.0, random).mean()
    assert 0.02 < share < 0.07


def test_the_bootstrap_is_too_narrow_for_three_values(random):
    values, _ = inference.normal(random, (1000, 3), 0.0)
    assert inference.by_bootstrap(values, 0.0, random).mean() > 0.2


def test_tables_have_a_cell_for_each_number_of_seeds(random):
    rows = inference.found(40, random, 1.5)
    assert len(rows) == len(inference.DISTRIBUTIONS) * len(inference.PROCEDURES)
    assert {len(row) for row in rows} == {2 + len(inference.SEEDS)}
    assert len(inference.held(40, random, 1.5)) == 3 * len(inference.DISTRIBUTIONS)


def test_pooling_by_seed_holds_the_level_where_tasks_correlate(random):
    rows = {
        tuple(row[:3]): [float(cell) for cell in row[3:6]] for row in inference.pooled(1000, random)
    }
    assert max(rows["6", "0.5", "by seed"]) < 8
    assert min(rows["6", "0.5", "variances added up"]) > 15
