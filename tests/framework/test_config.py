"""The configuration: its rules, its file, and what it does with anything else."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hiddenkey
from hiddenkey import ConfigError, Consistency, Drop, DropoutConfig
from hiddenkey.framework.compensation import CONSISTENCIES, RESCALES
from hiddenkey.framework.config import CONFIG_FILE
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS

HIDDEN = Drop("hidden", "element", 0.1)


def config_with(**changes):
    """A configuration whose one drop is changed."""
    return DropoutConfig((dataclasses.replace(HIDDEN, **changes),))


def faults_of(build):
    with pytest.raises(ConfigError) as caught:  # the callers pin the faults
        build()
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


# --- the rules of a drop


@pytest.mark.parametrize(
    ("given_", "nearest"),
    [("hiden", "hidden"), ("attention_logit", "attention_logits"), ("inputs", "input")],
)
def test_unknown_position_names_the_nearest(given_, nearest):
    with pytest.raises(
        ConfigError,
        match=rf"^drops\[0\]\.position must be one of input, .*, got '{given_}';"
        rf" did you mean '{nearest}'\?$",
    ):
        config_with(position=given_)


@pytest.mark.parametrize(("given_", "nearest"), [("colum", "column"), ("elements", "element")])
def test_unknown_pattern_names_the_nearest(given_, nearest):
    with pytest.raises(
        ConfigError,
        match=rf"^drops\[0\]\.pattern must be one of element, .*, got '{given_}';"
        rf" did you mean '{nearest}'\?$",
    ):
        config_with(pattern=given_)


def test_unknown_rescale_names_the_nearest():
    with pytest.raises(
        ConfigError,
        match=r"^drops\[0\]\.rescale must be one of none, .*, got 'normalized';"
        r" did you mean 'normalised'\?$",
    ):
        DropoutConfig((Drop("attention_weights", "column", 0.1, "normalized"),))


def test_a_name_far_from_all_gets_no_suggestion():
    with pytest.raises(ConfigError, match=r"got 'qqq'$"):
        config_with(position="qqq")


@pytest.mark.parametrize(
    "rate", [-0.1, 1, 1.0, 2, float("nan"), float("inf"), True, False, "0.1", None, [0.1]]
)
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(
        ConfigError,
        match=rf"^drops\[0\]\.rate must be in \[0, 1\), got {re.escape(repr(rate))}; 0.1 drops",
    ):
        config_with(rate=rate)


@pytest.mark.parametrize("rate", [0, 0.0, 1e-9, 0.5, 1 - 1e-9])
def test_a_rate_inside_its_range_is_taken(rate):
    assert config_with(rate=rate).drops[0].rate == rate


@pytest.mark.parametrize(
    ("position", "pattern", "reason"),
    [
        ("attention_logits", "feature", "an attention map has keys and queries, but no features"),
        ("attention_weights", "feature", "an attention map has keys and queries, but no features"),
        ("output", "column", "one vector per prediction, not a sequence"),
        ("output", "span", "one vector per prediction, not a sequence"),
        ("output", "feature", "one vector per prediction, not a sequence"),
    ],
)
def test_an_impossible_pair_is_refused_with_its_reason(position, pattern, reason):
    with pytest.raises(
        ConfigError,
        match=rf"^drops\[0\]: pattern '{pattern}' means nothing at position '{position}': "
        rf".*{reason}; use element",
    ) as caught:
        DropoutConfig((Drop(position, pattern, 0.1),))
    allowed = str(caught.value).rsplit("use ", 1)[1].split(", ")
    for offered in allowed:
        DropoutConfig((Drop(position, offered, 0.1),))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("rescale", RESCALES)
def test_a_rescaling_fits_or_is_refused_with_those_that_do(position, rescale):
    def build():
        return DropoutConfig((Drop(position, "element", 0.1, rescale),))

    if rescale in POSITIONS[position].rescales:
        assert build().drops[0].rescaling == rescale
        return
    with pytest.raises(
        ConfigError,
        match=rf"^drops\[0\]: rescale '{rescale}' does not fit position '{position}'; use ",
    ) as caught:
        build()
    for offered in str(caught.value).rsplit("use ", 1)[1].split(", "):
        DropoutConfig((Drop(position, "element", 0.1, offered),))


@pytest.mark.parametrize(
    ("position", "own"),
    [
        ("input", "none"),  # Cutoff sets to zero
        ("attention_logits", "none"),  # softmax renormalises
        ("attention_weights", "normalised"),  # DropAttention
        ("hidden", "inverse"),  # ordinary dropout
        ("output", "inverse"),
    ],
)
def test_rescaling_of_a_position_is_the_papers(position, own):
    assert Drop(position, "element", 0.1).rescaling == own


def test_a_position_is_given_once():
    twice = (HIDDEN, Drop("hidden", "span", 0.2), Drop("input", "span", 0.2))
    with pytest.raises(ConfigError, match=r"^drops has 'hidden' 2 times; give each position once$"):
        DropoutConfig(twice)


# --- the rules of the loss


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "kkl", "must be one of kl, js, mixture, label-smoothing, got 'kkl'; did you mean"),
        ("kind", ["kl"], "must be one of kl, js, mixture, label-smoothing, got ['kl']"),
        ("backward", "bth", "must be one of one, both, got 'bth'; did you mean 'both'?"),
        ("on", "logit", "must be one of auto, logits, representation, got 'logit'; did you mean"),
        ("weight", -0.1, "must be a finite number of at least 0, got -0.1"),
        ("weight", float("inf"), "must be a finite number of at least 0, got inf"),
        ("weight", float("nan"), "must be a finite number of at least 0, got nan"),
        ("weight", True, "must be a finite number of at least 0, got True"),
        ("weight", "1", "must be a finite number of at least 0, got '1'"),
        ("fraction", 0, "must be in (0, 1], got 0"),
        ("fraction", 1.01, "must be in (0, 1], got 1.01"),
        ("fraction", float("nan"), "must be in (0, 1], got nan"),
        ("fraction", True, "must be in (0, 1], got True"),
        ("every", 0, "must be a whole number ≥ 1, got 0"),
        ("every", 1.0, "must be a whole number ≥ 1, got 1.0"),
        ("every", True, "must be a whole number ≥ 1, got True"),
        ("every", None, "must be a whole number ≥ 1, got None"),
    ],
)
def test_a_field_of_the_loss_outside_its_rule_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'consistency.{field} {message}')}"):
        DropoutConfig((HIDDEN,), Consistency(**{field: value}))


def test_js_has_no_second_branch():
    with pytest.raises(
        ConfigError, match=r"^consistency.backward='both' means nothing with kind='js'.*use .*'one'"
    ):
        DropoutConfig((HIDDEN,), Consistency("js", backward="both"))
    assert DropoutConfig((HIDDEN,), Consistency("kl", backward="both"))


def test_edges_of_the_ranges_are_taken():
    loss = Consistency("js", weight=0, fraction=1, every=1, on="representation")
    assert DropoutConfig((HIDDEN,), loss).consistency == loss


# --- the other fields


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "must name at least one layer, got (); use None for all"),
        ((0, -1), "must hold whole numbers ≥ 0, got -1"),
        ((1.0,), "must hold whole numbers ≥ 0, got 1.0"),
        ((True,), "must hold whole numbers ≥ 0, got True"),
        ((None,), "must hold whole numbers ≥ 0, got None"),
        ((2, 0, 2), "must not repeat an index, got (2, 0, 2)"),
    ],
)
def test_bad_layers_are_refused(layers, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'layers {message}')}"):
        DropoutConfig((HIDDEN,), layers=layers)


def test_layers_may_be_any_sequence_of_indices():
    for layers in ([3, 1], (3, 1)):
        assert DropoutConfig((HIDDEN,), layers=layers).layers == (3, 1)
    assert DropoutConfig((HIDDEN,), layers=range(3)).layers == (0, 1, 2)


def test_a_broken_expression_is_refused_with_its_fault():
    with pytest.raises(
        ConfigError,
        match=r"^hidden_modules must be a regular expression, got '\(' \(missing \), unterminated",
    ):
        DropoutConfig((HIDDEN,), hidden_modules="(")


# what each field must survive; every other test here gives one of the right type
MALFORMED = [
    *[("drops", value) for value in ("hidden", 5, None, HIDDEN, True)],
    *[("drops", (value,)) for value in ({"position": "hidden"}, "hidden", None, 5, (HIDDEN,))],
    *[("consistency", value) for value in ("kl", {"kind": "kl"}, True, 1, (), Consistency)],
    *[("layers", value) for value in ("abc", 5, True, ([1],), ({},), 1.5)],
    *[("hidden_modules", value) for value in (5, b"a", ("a", "b"), [], True)],
    *[
        (name, value)
        for name in ("keep_model_dropout", "share_heads", "keep_first")
        for value in ("false", None, 1, [])
    ],
]


@pytest.mark.parametrize(("field", "value"), MALFORMED, ids=repr)
def test_a_value_of_a_wrong_type_is_a_config_error(field, value):
    (first, *_) = faults_of(lambda: DropoutConfig(**{field: value}))
    assert first.startswith(field)
    culprit = (
        value[0] if isinstance(value, tuple) and value and field != "hidden_modules" else value
    )
    if field == "layers" and isinstance(value, str):
        culprit = value[0]
    assert repr(culprit) in first or repr(value) in first


@pytest.mark.parametrize("field", ["position", "pattern", "rescale"])
@pytest.mark.parametrize("value", [["hidden"], {}, 5, True, {"hidden"}], ids=repr)
def test_a_name_of_a_wrong_type_is_a_config_error(field, value):
    with pytest.raises(
        ConfigError, match=rf"^drops\[0\].{field} must be one of .*, got {re.escape(repr(value))}"
    ):
        config_with(**{field: value})


def test_all_faults_are_reported_together():
    faults = faults_of(
        lambda: DropoutConfig(
            drops=(
                Drop("hiden", "colum", 1.5),
                Drop("output", "span", 0.1),
                Drop("hidden", "element", 0.1, "normalised"),
                Drop("hidden", "element", -1),
            ),
            consistency=Consistency("kll", -1, "ones", 0, 0, "off"),
            layers=(-1, 0, 0),
            hidden_modules="[",
        )
    )
    beginnings = [
        "drops[0].position must",
        "drops[0].pattern must",
        "drops[0].rate must",
        "drops[1]: pattern 'span'",
        "drops[2]: rescale 'normalised'",
        "drops[3].rate must",
        "drops has 'hidden' 2 times",
        "consistency.kind must",
        "consistency.backward must",
        "consistency.on must",
        "consistency.weight must",
        "consistency.fraction must",
        "consistency.every must",
        "layers must hold",
        "layers must not repeat",
        "hidden_modules must",
    ]
    for beginning in beginnings:
        assert [fault.startswith(beginning) for fault in faults].count(True) == 1, beginning
    assert len(faults) == len(beginnings)


def test_a_bad_rate_does_not_hide_the_drop_s_other_faults():
    faults = faults_of(lambda: DropoutConfig((Drop("output", "span", 2, "inverted"),)))
    for beginning in ("drops[0].rate must", "drops[0]: pattern 'span'", "drops[0].rescale must"):
        assert any(fault.startswith(beginning) for fault in faults), beginning


def test_a_fault_of_the_type_does_not_hide_the_others():
    faults = faults_of(lambda: DropoutConfig(drops="hidden", consistency="kl", layers=5))
    assert [fault.split()[0].split("[")[0] for fault in faults] == [
        "drops",
        "consistency",
        "layers",
    ]


# --- the file


@st.composite
def configs(draw):
    positions = draw(st.lists(st.sampled_from(sorted(POSITIONS)), unique=True))
    drops = []
    for position in positions:
        fitting = [name for name in PATTERNS if name not in POSITIONS[position].refused]
        rescale = st.none() | st.sampled_from(POSITIONS[position].rescales)
        rate = st.floats(0, 1, exclude_max=True)
        drops.append(Drop(position, draw(st.sampled_from(fitting)), draw(rate), draw(rescale)))
    kind = draw(st.sampled_from(sorted(CONSISTENCIES)))
    loss = Consistency(
        kind,
        weight=draw(st.floats(0, 1e6)),
        backward="both" if kind == "kl" and draw(st.booleans()) else "one",
        fraction=draw(st.floats(0, 1, exclude_min=True)),
        every=draw(st.integers(1, 100)),
        on=draw(st.sampled_from(["auto", "logits", "representation"])),
    )
    return DropoutConfig(
        tuple(drops),
        draw(st.sampled_from([None, loss])),
        layers=draw(st.none() | st.lists(st.integers(0, 99), min_size=1, unique=True)),
        keep_model_dropout=draw(st.booleans()),
        share_heads=draw(st.booleans()),
        keep_first=draw(st.booleans()),
        hidden_modules=draw(st.sampled_from([None, r".*\.fc2", "élément"])),
    )


@given(config=configs())
def test_any_configuration_survives_json(config):
    assert DropoutConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", hiddenkey.methods())
def test_a_method_survives_its_file(name, tmp_path):
    config = hiddenkey.method(name)
    path = config.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / CONFIG_FILE
    assert DropoutConfig.from_pretrained(path.parent) == config
    assert DropoutConfig.from_pretrained(str(path)) == config
    assert [entry.name for entry in path.parent.iterdir()] == [CONFIG_FILE]


def test_the_file_is_readable_json_with_every_field(tmp_path):
    config = hiddenkey.method("hiddenkey")
    values = json.loads(config.save_pretrained(tmp_path).read_text(encoding="utf-8"))
    assert set(values) == {field.name for field in dataclasses.fields(DropoutConfig)}
    assert [drop["position"] for drop in values["drops"]] == [d.position for d in config.drops]


def test_a_shorter_file_takes_the_defaults(tmp_path):
    drop = {"position": "hidden", "pattern": "element", "rate": 0.1}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"drops": [drop]}))
    assert DropoutConfig.from_pretrained(tmp_path) == DropoutConfig((HIDDEN,))


def test_saving_again_replaces_the_file(tmp_path):
    hiddenkey.method("hiddenkey").save_pretrained(tmp_path)
    hiddenkey.method("lora").save_pretrained(tmp_path)
    assert DropoutConfig.from_pretrained(tmp_path) == hiddenkey.method("lora")


def test_a_write_that_fails_leaves_the_file_untouched(tmp_path):
    resource = pytest.importorskip("resource")
    before = hiddenkey.method("lora").save_pretrained(tmp_path).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a disk that fills up, as it were
    try:
        with pytest.raises(OSError, match="too large"):
            hiddenkey.method("hiddenkey").save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CONFIG_FILE).read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [CONFIG_FILE]


def test_a_missing_file_says_which_and_what_to_give(tmp_path):
    with pytest.raises(
        ConfigError, match=rf"{CONFIG_FILE} does not exist; give the folder that save_pretrained"
    ):
        DropoutConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"drops: []", "is not valid JSON"),
        (b'{"drops": [}', "is not valid JSON"),
        (b"\x80\x02}q\x00.", "is not valid JSON"),
        (b"\xff\xfe{\x00}\x00", "is not valid JSON"),
        (b"\x00" * 64, "is not valid JSON"),
        pytest.param(b"[" * 100_000, "is not valid JSON", id="nested too deeply"),
        (b"[]", "must hold one JSON object, got list"),
        (b"null", "must hold one JSON object, got NoneType"),
        (b'"hiddenkey"', "must hold one JSON object, got str"),
        (b'{"drop": []}', "a key must be one of drops, .*, got 'drop'; did you mean 'drops'?"),
        (b'{"drops": {}}', "drops must be a list of drops, got {}"),
        (b'{"drops": null}', "drops must be a list of drops, got None"),
        (b'{"drops": ["hidden"]}', r"drops\[0\] must be a Drop, got 'hidden'"),
        (b'{"drops": [{}]}', r"drops\[0\] needs 'position'; add it"),
        (
            b'{"drops": [{"position": "hidden", "pattern": "element", "rate": 0.1, "p": 1}]}',
            r"drops\[0\].key must be one of position, pattern, rate, rescale, got 'p'",
        ),
        (
            b'{"drops": [{"position": ["hidden"], "pattern": {}, "rate": "0.1"}]}',
            r"drops\[0\].position must be one of .* got \['hidden'\]",
        ),
        (
            b'{"drops": [{"position": "hidden", "pattern": "element", "rate": NaN}]}',
            r"drops\[0\].rate must be in \[0, 1\), got nan",
        ),
        (b'{"consistency": "kl"}', "consistency must be a Consistency or None, got 'kl'"),
        (b'{"consistency": {"weigth": 1}}', "consistency.key must be .* did you mean 'weight'"),
        (b'{"consistency": {"kind": ["kl"]}}', r"consistency.kind must be .*, got \['kl'\]"),
        (b'{"layers": 3}', "layers must be a list of indices or None, got 3"),
        (b'{"layers": [[3]]}', r"layers must hold whole numbers ≥ 0, got \[3\]"),
        (b'{"keep_first": "false"}', "keep_first must .*got 'false'"),
        (b'{"share_heads": 1}', "share_heads must .*got 1"),
        (b'{"hidden_modules": ["a"]}', r"hidden_modules must .*got \['a'\]"),
    ],
)
def test_a_corrupt_file_is_refused_with_its_path(tmp_path, content, message):
    path = tmp_path / CONFIG_FILE
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?m)^{re.escape(str(path))}:? {message}"):
        DropoutConfig.from_pretrained(tmp_path)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = hiddenkey.method("hiddenkey").save_pretrained(tmp_path)
    whole = path.read_bytes().rstrip()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))} is not valid JSON"):
            DropoutConfig.from_pretrained(tmp_path)


def test_every_fault_of_a_file_is_reported_with_its_path(tmp_path):
    drop = {"position": "hiden", "pattern": "colum", "rate": 2}
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps({"drops": [drop], "consistency": {"every": 0}, "layers": []}))
    faults = faults_of(lambda: DropoutConfig.from_pretrained(tmp_path))
    assert len(faults) == 5
    assert all(fault.startswith(f"{path}: ") for fault in faults)


def test_a_file_reports_keys_types_and_rules_together(tmp_path):
    drop = {"position": "hidden", "pattern": "element", "rate": 2}
    values = {
        "drops": [drop, {"position": "input", "pattern": "span", "p": 0.1}],
        "consistency": {"every": 0, "weigth": 1},
        "layers": 5,
        "keep_frist": True,
    }
    (tmp_path / CONFIG_FILE).write_text(json.dumps(values))
    faults = faults_of(lambda: DropoutConfig.from_pretrained(tmp_path))
    for part in (
        "drops[0].rate must be in [0, 1), got 2",
        "drops[1] needs 'rate'",
        "drops[1].key must be one of",
        "consistency.every must be a whole number",
        "did you mean 'weight'?",
        "layers must be a",
        "did you mean 'keep_first'?",
    ):
        assert any(part in fault for fault in faults), part


@pytest.mark.parametrize("values", [5, "hiddenkey", [1], None], ids=repr)
def test_only_an_object_is_read_as_a_configuration(values):
    with pytest.raises(
        ConfigError, match=rf"^a configuration must be an object, got {re.escape(repr(values))}"
    ):
        DropoutConfig.from_dict(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = [
    field.name for kind in (DropoutConfig, Drop, Consistency) for field in dataclasses.fields(kind)
]
FIELDS = st.sampled_from(NAMES)
DROP = st.dictionaries(FIELDS, JSON) | st.fixed_dictionaries(
    {
        "position": st.sampled_from([*POSITIONS, "x", None, []]),
        "pattern": st.sampled_from([*PATTERNS, "x", None, {}]),
        "rate": JSON,
    },
    optional={"rescale": JSON},
)


@settings(max_examples=300)
@given(
    values=JSON
    | st.dictionaries(FIELDS, JSON)
    | st.fixed_dictionaries(
        {"drops": st.lists(DROP, max_size=3)},
        optional={"consistency": st.dictionaries(FIELDS, JSON), "layers": JSON, "keep_first": JSON},
    )
)
def test_any_json_is_a_configuration_or_a_config_error(values):
    try:
        config = DropoutConfig.from_dict(values)
    except ConfigError:
        return
    assert DropoutConfig.from_dict(config.to_dict()) == config
