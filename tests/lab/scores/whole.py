"""Scores of all instances, without groups."""

from hiddenkey.lab.scores import score_groups


def score_whole(family, references, outputs):
    return score_groups(family, references, outputs, {"all": range(len(outputs))})["all"]
