import math

import pytest

from hiddenkey.errors import ConfigError
from hiddenkey.lab.claims.choice import trials
from hiddenkey.lab.claims.plan import Configuration
from hiddenkey.lab.claims.reading import default_folder, read_plans
from lab.claims.conftest import edit

SCALES = ("tiny", "small", "base", "decoders", "medium", "paper")


def add(configuration, name="x"):
    """A change of a claim: another configuration."""
    return lambda claim: claim["configurations"].update({name: configuration})


def faults(folder, scale, names=()):
    with pytest.raises(ConfigError) as caught:
        read_plans(folder, scale, names)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize("scale", SCALES)
def test_the_plans_that_come_with_it_fit_their_scales(scale):
    claims, found = read_plans(default_folder(), scale)
    assert len(claims) >= (3 if scale == "decoders" else 9)
    assert found.power.deviation > 0
    assert found.power.source
    assert all(claim.paper and claim.how for claim in claims)
    if scale != "tiny":
        assert len(found.seeds) >= 5


def test_every_claim_of_the_paper_has_a_plan():
    claims, _ = read_plans(default_folder(), "small")
    paper, own = [f"C{n}" for n in range(1, 10)], [f"X{n}" for n in range(1, 10)]
    assert [claim.name for claim in claims] == [*paper, *own]


def test_every_method_of_a_scale_is_chosen_by_the_same_number_of_runs():
    for name in SCALES:
        _, scale = read_plans(default_folder(), name)
        for setup in scale.tasks.values():
            methods = [scale.choices[c] for c in setup.choices if not scale.choices[c].settings]
            counts = {len(trials(choice, setup, scale)) for choice in methods}
            assert len(counts) == 1, (name, setup.name)


def test_a_scale_may_train_only_what_is_asked():
    """C4's questions weigh two of its three rates, and its figure keeps those."""
    claims, scale = read_plans(default_folder(), "base", ["C4"])
    assert scale.asked_only
    names = {"lora"} | {
        f"{method} {rate}"
        for method in ("dropkey", "hiddencut", "dropattention")
        for rate in (0.1, 0.5)
    }
    assert set(claims[0].configurations) == set(claims[0].trained) == names
    sweep = claims[0].pictures[0]
    assert sweep.shown == names
    assert set(sweep.series) == {"DropKey", "HiddenCut", "DropAttention"}
    whole, _ = read_plans(default_folder(), "small", ["C4"])
    assert names < set(whole[0].trained)


def test_claims_stand_in_the_order_of_their_numbers(plans):
    for name in ("c10", "c9"):
        (plans / f"{name}.yaml").write_text((plans / "c1.yaml").read_text())
    claims, _ = read_plans(plans, "mine")
    assert [claim.name for claim in claims] == ["C1", "C2", "C9", "C10"]


def test_a_claim_is_read(plans):
    (claim, cost), _ = read_plans(plans, "mine")
    assert (claim.name, claim.title, claim.need, claim.scope) == (
        "C1", "DropKey beats LoRA", 1.0, "pooled",
    )  # fmt: skip
    assert claim.configurations["strong"] == Configuration(
        "strong", "dropkey", {"rate": 0.5}, "lora"
    )
    better, no_better = claim.contrasts
    assert (better.expect, better.margin, better.weights) == (
        "better",
        1,
        {"dropkey": 1, "lora": -1},
    )
    assert (no_better.expect, no_better.low, no_better.high) == ("no better", -math.inf, math.inf)
    assert claim.pictures[0].series == {"DropKey": {0.0: "lora", 0.5: "strong"}}
    assert claim.pictures[1].cells == {"DropKey": {"weak": "dropkey", "strong": "strong"}}
    assert (cost.contrasts[0].low, cost.contrasts[0].high) == (0.01, 100)
    assert (claim.trained, claim.timed) == (["lora", "dropkey", "strong"], [])
    assert (cost.trained, cost.timed) == ([], ["dropkey"])


def test_files_of_earlier_versions_are_read(plans):
    before = read_plans(plans, "mine")
    edit(plans / "c1.yaml", lambda c: c.update(arms=c.pop("configurations")))
    assert read_plans(plans, "mine") == before


def test_names_choose_claims_in_any_case(plans):
    assert [claim.name for claim in read_plans(plans, "mine", ["c2"])[0]] == ["C2"]
    assert "did you mean 'C2'" in faults(plans, "mine", ["C22"])


def test_a_scale_is_read_by_name_or_from_a_file(plans):
    _, scale = read_plans(plans, "mine")
    assert scale == read_plans(plans, str(plans / "scales" / "mine.yaml"))[1]
    assert scale.tasks["words"].options["train_size"] == 16
    assert scale.tasks["words"].choices == ("lora", "dropkey")
    assert "did you mean 'mine'" in faults(plans, "mime")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(titel="x"), "'titel' is not a setting; did you mean 'title'"),
        (lambda c: c.pop("margin"), "margin is missing"),
        (lambda c: c.update(need=2), "need must be a share in (0, 1], got 2"),
        (lambda c: c.update(scope="all"), "scope must be one of pooled, each task"),
        (add({"method": "dropky"}), "did you mean 'dropkey'"),
        (
            add({"method": "lora", "rte": 1}),
            "'rte' is not a setting",
        ),
        (
            add({"method": "lora", "epochs": "y"}),
            "epochs must be float",
        ),
        (lambda c: c["contrasts"][0]["weights"].update(lora=-2), "weights must sum to 0"),
        (lambda c: c["contrasts"][0]["weights"].update(loraa=1), "did you mean 'lora'"),
        (lambda c: c["contrasts"][0].update(expect="worse"), "expect must be one of better"),
        (lambda c: c["contrasts"][0].update(measure="bleu"), "measure must be one of metric"),
        (lambda c: c["contrasts"][0].update(expect="between"), "between needs low and high"),
        (lambda c: c.update(margin=-1), "margin must be 0 or more, got -1"),
        (
            lambda c: c["contrasts"][0].update(expect="between", low=5, high=-5),
            "low must not exceed high, got 5 and -5",
        ),
        (lambda c: c["contrasts"].append(3), "contrasts must be name: value, got 3"),
        (lambda c: c.update(configurations=3), "configurations must be name: value, got 3"),
        (lambda c: c.pop("configurations"), "configurations is missing"),
        (lambda c: c.update(tasks=None), "tasks is missing"),
        (lambda c: c.update(tasks=["words"]), "tasks must be name: value, got ['words']"),
        (lambda c: c["tasks"].update(mine=None), "tasks: mine is missing"),
        (lambda c: c["tasks"].update(mine="words"), "tasks: mine must be a list of at least one"),
        (lambda c: c.update(margin=10**400), "must hold numbers of at most 300 digits"),
        (lambda c: c.update(margin=math.nan), "margin must be a finite number, got nan"),
        (lambda c: c["contrasts"][0]["weights"].update(lora=-math.inf), "finite number, got -inf"),
        (lambda c: c["pictures"][0].update(kind="pie"), "kind must be one of sweep"),
        (lambda c: c["pictures"][0]["series"].update(x={1: "nobody"}), "got 'nobody'"),
    ],
)
def test_a_fault_of_a_claim_is_told_with_its_file(plans, change, told):
    edit(plans / "c1.yaml", change)
    said = faults(plans, "mine")
    assert told in said
    assert str(plans / "c1.yaml") in said


def test_all_faults_of_all_files_are_told_at_once(plans):
    edit(plans / "c1.yaml", lambda c: c.update(need=0))
    (plans / "c2.yaml").write_text("- no\n- mapping\n")
    said = faults(plans, "mine")
    assert "need must be" in said
    assert "must hold settings as 'name: value', got list" in said


@pytest.mark.parametrize("broken", ["seeds: [0, 1", "- no\n- mapping\n"])
def test_of_a_file_that_cannot_be_read_nothing_else_is_said(plans, broken):
    (plans / "c2.yaml").write_text(broken)
    assert len(faults(plans, "mine").splitlines()) == 1
    (plans / "scales" / "mine.yaml").write_text(broken)
    assert len(faults(plans, "mine").splitlines()) == 1


def test_a_configuration_means_the_same_in_all_claims(plans):
    edit(
        plans / "c2.yaml",
        add({"method": "dropkey", "rate": 0.4}, "strong"),
    )
    assert "c2.yaml: configuration 'strong' must mean what it means in C1" in faults(plans, "mine")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("power"), "power is missing"),
        (lambda s: s["common"].update(epoch=1), "did you mean 'epochs'"),
        (lambda s: s["choices"].update(rates=[]), "rates must be a list of at least one, got []"),
        (lambda s: s["choices"].update(rates=0.1), "rates must be a list of at least one, got 0.1"),
        (lambda s: s.update(seeds=5), "seeds must be a list of at least one, got 5"),
        (lambda s: s.update(repeats=10**9), "repeats must be from 1 to 1000, got 1000000000"),
        (lambda s: s.update(repeats="five"), "repeats must be a whole number, got 'five'"),
        (lambda s: s.update(power={"deviation": 0}), "power must have a deviation above 0"),
        (lambda s: s.update(power=3), "power must be name: value, got 3"),
        (lambda s: s["tasks"]["words"].update(validation=0.5), "validation must be a number"),
        (lambda s: s["tasks"]["words"].pop("validation"), "1 or more, beside train_size"),
        (lambda s: s.update(seeds=[1, 1, 2]), "seeds must be different, got [1, 1, 2]"),
        (lambda s: s["tasks"]["words"].update(choices=["dora"]), "choices must be one of lora"),
        (lambda s: s.update(asked_only="no"), "asked_only must be true or false, got 'no'"),
        (lambda s: s["choices"].update(scope="tasks"), "scope must be one of each task, all tasks"),
        (
            lambda s: (
                s["choices"].update(scope="all tasks"),
                s["tasks"]["words"].update(learning_rates={"lora": [0.1]}),
            ),
            "learning_rates of 'lora' must be those of all tasks",
        ),
    ],
)
def test_a_fault_of_a_scale_is_told(plans, change, told):
    edit(plans / "scales" / "mine.yaml", change)
    assert told in faults(plans, "mine")


def test_claims_must_fit_the_scale(plans):
    edit(plans / "c1.yaml", lambda c: c["tasks"].update(mine=["words", "letters"]))
    edit(plans / "scales" / "mine.yaml", lambda s: s["tasks"]["words"].update(choices=["lora"]))
    said = faults(plans, "mine")
    assert "tasks: mine must be one of words, got 'letters'" in said
    assert "dropkey: choice on task 'words' must be one of lora, got 'dropkey'" in said


def test_a_folder_without_plans_is_refused(tmp_path):
    assert "has none" in faults(tmp_path, "mine")
