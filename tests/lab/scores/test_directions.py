"""Which metrics of other people are better when smaller, by their names."""

import pytest

from hiddenkey.lab.scores import METRICS, lower_is_better

SMALLER = (
    "error_rate", "brier_score", "cross_entropy", "crossentropy", "logloss", "bits_per_byte",
    "bpb", "mape", "smape", "sMAPE", "fpr", "FPR95", "fpr_at_95_tpr", "false_positive_rate",
    "false_negative_rate", "eer", "token_error_rate", "wordErrorRate", "hallucination_rate",
    "hamming", "edit_distance", "valLoss", "BCELoss", "testMSE", "ter_score", "TER", "FID",
    "kl_div", "deviance", "loss", "loss2", "eval/loss", "loss_epoch", "accuracy_loss", "top1_error",
    "ece", "nll", "negative_log_likelihood", "neg_log_likelihood_loss",
)  # fmt: skip
LARGER = (
    "accuracy", "f1", "matthews", "chrF", "rougeLsum", "mAP", "log_likelihood", "entropy", "cost",
    "neg_log_loss", "neg_mean_squared_error", "neg_brier_score", "negLogLoss", "-", "",
    "neg_negative_likelihood_ratio", "true_negative_rate", "error_detection_f1", "r2",
    "hallucination_auroc", "brier_skill_score", "d2_absolute_error_score", "recall_at_fpr",
    "TPR@FPR",
)  # fmt: skip


@pytest.mark.parametrize("name", SMALLER)
def test_losses_and_errors_are_better_when_smaller(name):
    assert lower_is_better(name)


@pytest.mark.parametrize("name", LARGER)
def test_others_and_negated_ones_are_not(name):
    assert not lower_is_better(name)


def test_of_ours_it_is_the_edit_rate_alone():
    ours = {name for names in METRICS.values() for name in names}
    assert {name for name in ours if lower_is_better(name)} == {"TER"}
