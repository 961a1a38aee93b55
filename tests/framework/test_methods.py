"""The named methods against the tables of PAPER.md and DESIGN.md."""

import re

import pytest

import hiddenkey
from hiddenkey import ConfigError, Consistency, Drop

# family: (position, the paper's own pattern, rescale, arXiv id), from the table of PAPER.md
FAMILIES = {
    "dropkey": ("attention_logits", "column", "none", "2208.02646"),
    "dropattention": ("attention_weights", "column", "normalised", "1907.11065"),
    "hiddencut": ("hidden", "span", "inverse", "2106.00149"),
}
NAMES = [
    "lora",
    *FAMILIES,
    *(f"{family}-{pattern}" for family in FAMILIES for pattern in ("element", "column", "span")),
    "cutoff",
    "output-dropout",
    "hiddenkey-minus",
    "hiddenkey",
    "hiddenkey-js",
    "hiddencut-mixture",
    "temporal",
    "hiddenkey-temporal",
    "label-smoothing",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_method_of_the_design_is_there(name):
    assert hiddenkey.methods()[name].name == name


@pytest.mark.parametrize("name", hiddenkey.methods())
def test_every_method_has_its_axes_a_summary_and_a_paper(name):
    entry = hiddenkey.methods()[name]
    assert entry.name == name
    assert entry.summary
    assert entry.where == (" + ".join(d.position for d in entry.config.drops) or "nowhere")
    assert entry.pattern == (" + ".join(d.pattern for d in entry.config.drops) or "none")
    assert entry.compensation
    assert re.search(r"arXiv \d{4}\.\d{5}$|\b[A-Z]{4,} \d+ \(\d{4}\) \d+-\d+$", entry.paper)


def test_no_two_methods_of_different_families_are_the_same():
    seen = {}
    for name, entry in hiddenkey.methods().items():
        seen.setdefault(entry.config, []).append(name)
    for names in seen.values():  # a family's name stands for its paper's own pattern
        family = min(names, key=len)
        assert all(name == family or re.fullmatch(rf"{family}-\w+", name) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_that_of_its_paper(family):
    position, own, rescale, arxiv = FAMILIES[family]
    for name, pattern in [(family, own)] + [
        (f"{family}-{pattern}", pattern) for pattern in ("element", "column", "span")
    ]:
        entry = hiddenkey.methods()[name]
        (drop,) = entry.config.drops
        assert (drop.position, drop.pattern, drop.rescaling) == (position, pattern, rescale)
        assert entry.config.consistency is None
        assert entry.paper.endswith(arxiv)


def test_cutoff_sets_tokens_features_or_spans_of_the_input_to_zero():
    for name, pattern in (
        ("cutoff-column", "column"),
        ("cutoff-feature", "feature"),
        ("cutoff-span", "span"),
    ):
        entry = hiddenkey.methods()[name]
        (drop,) = entry.config.drops
        assert (drop.position, drop.pattern, drop.rescaling) == ("input", pattern, "none")
        assert entry.paper.endswith("2009.13818")


def test_lora_has_no_noise_and_output_dropout_is_ordinary_dropout():
    assert hiddenkey.method("lora").drops == ()
    assert hiddenkey.method("lora").consistency is None
    (drop,) = hiddenkey.method("output-dropout").drops
    assert (drop.position, drop.pattern, drop.rescaling) == ("output", "element", "inverse")


def test_hiddenkey_is_column_dropkey_and_element_hiddencut_with_a_kl_loss():
    minus, full, js = map(hiddenkey.method, ("hiddenkey-minus", "hiddenkey", "hiddenkey-js"))
    assert [(d.position, d.pattern, d.rescaling) for d in full.drops] == [
        ("attention_logits", "column", "none"),
        ("hidden", "element", "inverse"),
    ]
    assert minus.drops == full.drops == js.drops
    assert minus.consistency is None
    assert full.consistency == Consistency("kl", backward="one")
    assert js.consistency == Consistency("js")
    entry = hiddenkey.methods()["hiddenkey"]
    assert entry.compensation == "inverse + kl loss"
    assert entry.paper.endswith("2403.00812")


def test_the_table_cannot_be_changed_by_accident():
    with pytest.raises(TypeError, match="does not support item assignment"):
        hiddenkey.methods()["lora"] = hiddenkey.methods()["hiddenkey"]


def rates_of(config):
    return {drop.position: drop.rate for drop in config.drops}


def test_a_rate_goes_to_every_drop_and_rates_to_their_positions():
    assert rates_of(hiddenkey.method("hiddenkey", rate=0.25)) == {
        "attention_logits": 0.25,
        "hidden": 0.25,
    }
    assert rates_of(hiddenkey.method("hiddenkey", 0.25, rates={"hidden": 0.4})) == {
        "attention_logits": 0.25,
        "hidden": 0.4,
    }
    untouched = rates_of(hiddenkey.method("hiddenkey"))
    assert rates_of(hiddenkey.method("hiddenkey", rates={"hidden": 0.4})) == {
        **untouched,
        "hidden": 0.4,
    }
    assert rates_of(hiddenkey.method("hiddenkey", rate=0)) == dict.fromkeys(untouched, 0)
    assert rates_of(hiddenkey.method("hiddenkey")) == untouched  # the table itself is unchanged


@pytest.mark.parametrize("name", hiddenkey.methods())
def test_a_rate_changes_nothing_else(name):
    plain, set_ = hiddenkey.method(name), hiddenkey.method(name, 0.3)
    assert set_.consistency == plain.consistency
    assert [(d.position, d.pattern, d.rescale) for d in set_.drops] == [
        (d.position, d.pattern, d.rescale) for d in plain.drops
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("hidenkey", "hiddenkey"),
        ("drop-key", "dropkey"),
        ("hiddencut-elements", "hiddencut-element"),
        ("HiddenKey-JS", "hiddenkey-js"),
        ("hiddenkey_minus", "hiddenkey-minus"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(
        ConfigError,
        match=rf"^method must be one of lora, .*, got '{name}'; did you mean '{nearest}'\?$",
    ):
        hiddenkey.method(name)


@pytest.mark.parametrize("name", [None, 5, ["hiddenkey"], {}], ids=repr)
def test_a_name_that_is_no_text_is_a_config_error(name):
    with pytest.raises(ConfigError, match=rf"^method must be .*got {re.escape(repr(name))}"):
        hiddenkey.method(name)


@pytest.mark.parametrize("name", hiddenkey.methods())
@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan"), "0.1", True])
def test_a_rate_outside_its_range_is_refused_by_every_method(name, rate):
    with pytest.raises(
        ConfigError, match=rf"rate must be in \[0, 1\), got {re.escape(repr(rate))}"
    ):
        hiddenkey.method(name, rate)


def test_rates_of_all_positions_are_checked_together():
    with pytest.raises(ConfigError, match=r"rate must be in \[0, 1\), got 3") as caught:
        hiddenkey.method("hiddenkey", rates={"hidden": 2, "attention_logits": 3})
    assert len(caught.value.faults) == 2


def test_a_rate_for_a_position_that_the_method_has_not_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"^method 'hiddenkey' drops at attention_logits, hidden, got a rate for 'input'; "
        r"leave .*\nmethod 'hiddenkey' drops at .*, got a rate for 'hiden'; leave",
    ):
        hiddenkey.method("hiddenkey", rates={"input": 0.1, "hiden": 0.1})
    with pytest.raises(ConfigError, match=r"^method 'lora' drops at no position, got a rate for"):
        hiddenkey.method("lora", rates={"hidden": 0.1})


@pytest.mark.parametrize("rates", [0.1, [0.1], [("hidden", 0.1)], "hidden"], ids=repr)
def test_rates_that_are_no_mapping_are_a_config_error(rates):
    with pytest.raises(ConfigError, match="rate"):
        hiddenkey.method("hiddenkey", rates=rates)


def test_the_paper_s_methods_can_be_written_by_hand():
    config = hiddenkey.DropoutConfig(
        drops=(
            Drop(position="attention_logits", pattern="column", rate=0.1),
            Drop(position="hidden", pattern="element", rate=0.1),
        ),
        consistency=Consistency(kind="kl", weight=1.0, backward="one", fraction=1.0, every=1),
    )
    assert config == hiddenkey.method("hiddenkey", rate=0.1)
