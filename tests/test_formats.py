"""Claims about mxexport.formats: what parses, what a name means, and the derived constants."""

import numpy as np
import onnx_ir as ir
import pytest
import torch

import mxexport
from mxexport import ops
from mxexport.errors import FormatError
from mxexport.model import graph
from mxexport.numbers import quantized
from mxexport.numbers.formats import (
    MX_FORMATS,
    SCALE_RULES,
    FloatElement,
    GroupFormat,
    IntElement,
    find_format,
    get_format,
    round_bias,
    with_group_size,
)
from mxexport.quant import Quantizer
from tests.helpers import single_node_model

NAMED = [  # name, element bits, group size, scale kind
    ("mxfp8_e4m3", 8, 32, "e8m0"),
    ("mxfp8_e5m2", 8, 32, "e8m0"),
    ("mxfp6_e3m2", 6, 32, "e8m0"),
    ("mxfp6_e2m3", 6, 32, "e8m0"),
    ("mxfp4_e2m1", 4, 32, "e8m0"),
    ("mxint8", 8, 32, "e8m0"),
    ("nvfp4", 4, 16, "nvfp4"),
]

FACTS_TABLE = [  # format, bias, emax, max, smallest subnormal, specials
    ("mxfp8_e4m3", 7, 8, 448, 2**-9, "nan"),
    ("mxfp8_e5m2", 15, 15, 57344, 2**-16, "ieee"),
    ("mxfp6_e3m2", 3, 4, 28, 2**-4, "none"),
    ("mxfp6_e2m3", 1, 2, 7.5, 2**-3, "none"),
    ("mxfp4_e2m1", 1, 2, 6, 2**-1, "none"),
    ("float_e4m3_g32", 7, 8, 480, 2**-9, "none"),
    ("float_ocp_e4m3_g32", 7, 8, 448, 2**-9, "nan"),
    ("float_ocp_e5m2_g32", 15, 15, 57344, 2**-16, "ieee"),
    ("float_ocp_e3m2_g32", 3, 4, 28, 2**-4, "none"),
    ("float_fnuz_e4m3_g32", 8, 7, 240, 2**-10, "fnuz"),
    ("float_fnuz_e5m2_g32", 16, 15, 57344, 2**-17, "fnuz"),
]

ROUND_BIAS = {  # FACTS section 5: R of floor, ceil, even, rceil
    "mxfp8_e4m3": (0, 0x7FFFFF, 1 << 19, 0x1FFFFF),
    "mxfp8_e5m2": (0, 0x7FFFFF, 1 << 20, 0x1FFFFF),
    "mxfp6_e3m2": (0, 0x7FFFFF, 1 << 20, 0x1FFFFF),
    "mxfp6_e2m3": (0, 0x7FFFFF, 1 << 19, 0x0FFFFF),
    "mxfp4_e2m1": (0, 0x7FFFFF, 1 << 21, 0x3FFFFF),
    "mxint8": (0, 0x7FFFFF, 1 << 16, 0x01FFFF),
}


@pytest.mark.parametrize("name, bits, group_size, scale", NAMED)
def test_named_format_has_its_published_shape(name, bits, group_size, scale):
    fmt = get_format(name)
    assert (fmt.name, fmt.element.bits, fmt.group_size, fmt.scale) == (name, bits, group_size, scale)
    assert fmt.is_mx == (scale == "e8m0")
    assert fmt.is_float == (name != "mxint8")


def test_mx_formats_are_the_six_of_ocp():
    assert MX_FORMATS == ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8")


@pytest.mark.parametrize("name, bias, emax, max_val, smallest, specials", FACTS_TABLE)
def test_derived_constants_of_float_elements(name, bias, emax, max_val, smallest, specials):
    e = get_format(name).element
    assert (e.bias, e.emax, e.max_val, 2.0**-e.frac_bits, e.specials) == (bias, emax, max_val, smallest, specials)
    assert e.emin == 1 - bias
    assert e.linear_bits == int(max_val / smallest).bit_length() + 1


def test_special_codes_of_the_ocp_and_fnuz_elements():
    def codes(name):
        element = get_format(name).element
        return element.inf_code, element.nan_code, element.signed_zero

    assert codes("mxfp8_e4m3") == (None, 0b0_1111_111, True)
    assert codes("mxfp8_e5m2")[0] == 0b0_11111_00 and codes("mxfp8_e5m2")[1] & 0b0_11111_11 > 0b0_11111_00
    assert codes("float_fnuz_e4m3_g8") == (None, 0b1_0000_000, False)
    assert codes("float_e5m2_g8") == codes("mxfp6_e3m2") == codes("mxfp4_e2m1") == (None, None, True)


def test_mxint8_is_a_multiple_of_2_to_the_minus_6():
    fmt = get_format("mxint8")
    assert (fmt.element.emax, fmt.element.max_val, fmt.element.frac_bits, fmt.step_frac_bits) == (0, 127 / 64, 6, 6)
    assert (fmt.element.code_lo, fmt.element.code_hi) == (-127, 127)


@pytest.mark.parametrize("name", ROUND_BIAS)
def test_round_bias_is_the_published_integer(name):
    assert tuple(round_bias(get_format(name).element, rule) for rule in SCALE_RULES) == ROUND_BIAS[name]


def test_round_bias_refuses_an_unknown_rule():
    with pytest.raises(FormatError, match=r"unknown scale rule 'ceiling'; expected one of floor, ceil, even, rceil"):
        round_bias(get_format("mxint8").element, "ceiling")


@pytest.mark.parametrize("rule", [-1, 0x800000, True, 2.0])
def test_an_addend_is_an_integer_of_23_bits(rule):
    with pytest.raises(FormatError, match=r"unknown scale rule .* or its addend R, an integer of 0 to 0x7fffff"):
        round_bias(get_format("mxint8").element, rule)


@pytest.mark.parametrize("name", ROUND_BIAS)
def test_a_rule_is_its_addend(name):
    """By all roads from values to scales: the reference and the layers of torch."""
    fmt = get_format(name)
    x = np.float32([[1.0, 1.25, 1.7499999, 1.75, 1.9999, -3.5, 448.0, 0.0]] * 8) * np.float32(2.0) ** np.arange(-4, 4)
    for rule in SCALE_RULES:
        addend = round_bias(fmt.element, rule)
        by_name, by_number = (quantized.quantize(x, with_group_size(fmt, 1), rule=r) for r in (rule, addend))
        assert np.array_equal(by_name.scale_codes, by_number.scale_codes)
    between = quantized.quantize(x, with_group_size(fmt, 1), rule=0x200000)
    assert between.scale_codes.min() < between.scale_codes.max()
    found = Quantizer(with_group_size(fmt, 1), -1, 0x200000)(torch.from_numpy(x))
    assert np.array_equal(found.numpy(), between.dequantize())


@pytest.mark.parametrize("rule", ["0x200000", 0x200000], ids=repr)
def test_a_rule_without_powers_of_two_is_refused_by_number_too(rule):
    message = "scale rule .R=0x200000. needs power-of-two scales" if type(rule) is int else "unknown scale rule"
    with pytest.raises(FormatError, match=message):
        Quantizer(get_format("int8_g32"), -1, rule)


# --- families -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group_size", [1, 7, 32, 128, 999_999])
def test_integer_families_parse(bits, group_size):
    signed, unsigned = get_format(f"int{bits}_g{group_size}"), get_format(f"uint{bits}_g{group_size}")
    hi = 2 ** (bits - 1) - 1
    assert signed == GroupFormat(f"int{bits}_g{group_size}", IntElement(bits), group_size, "float32")
    assert (signed.element.code_lo, signed.element.code_hi, signed.asymmetric) == (-hi, hi, False)
    assert (unsigned.element.code_lo, unsigned.element.code_hi, unsigned.asymmetric) == (0, 2**bits - 1, True)
    assert not signed.is_mx and unsigned.group_size == group_size


@pytest.mark.parametrize("bits", range(2, 9))
def test_mxint_family_parses(bits):
    fmt, regrouped = get_format(f"mxint{bits}"), get_format(f"mxint{bits}_g16")
    assert fmt.element == IntElement(bits, frac_bits=bits - 2) and fmt.is_mx and fmt.group_size == 32
    assert fmt.element.max_val == (2 ** (bits - 1) - 1) / 2 ** (bits - 2)
    assert (regrouped.element, regrouped.group_size, regrouped.name) == (fmt.element, 16, f"mxint{bits}_g16")


@pytest.mark.parametrize("e, m", [(e, m) for e in range(1, 8) for m in range(0, 8 - e)])
def test_float_families_parse_every_width_up_to_8_bits(e, m):
    plain, ocp, fnuz = (get_format(f"float_{kind}e{e}m{m}_g48") for kind in ("", "ocp_", "fnuz_"))
    assert plain.element == FloatElement(e, m, "none") and fnuz.element == FloatElement(e, m, "fnuz")
    assert ocp.element == FloatElement(e, m, {(4, 3): "nan", (5, 2): "ieee"}.get((e, m), "none"))
    assert {f.scale for f in (plain, ocp, fnuz)} == {"float32"} and {f.group_size for f in (plain, ocp, fnuz)} == {48}
    assert fnuz.element.bias == plain.element.bias + 1


@pytest.mark.parametrize("name", ["float_e0m3_g32", "float_e5m3_g32", "float_ocp_e8m0_g32", "float_fnuz_e4m4_g32"])
def test_float_family_refuses_widths_outside_its_limits(name):
    with pytest.raises(FormatError, match=r"expected at least one exponent bit and at most 8 bits"):
        get_format(name)


@pytest.mark.parametrize("name", MX_FORMATS)
def test_mx_formats_take_another_group_size(name):
    base, fmt = get_format(name), get_format(f"{name}_g64")
    assert fmt == GroupFormat(f"{name}_g64", base.element, 64, "e8m0")


@pytest.mark.parametrize("name", [*MX_FORMATS, "mxint4"])
def test_the_default_group_size_is_not_part_of_the_canonical_name(name):
    assert get_format(f"{name}_g32") == get_format(name)
    assert get_format(f"{name}_g32").name == name


def test_a_canonical_name_parses_to_the_same_format():
    for name in ("mxint4_g32", "mxint8_g5", "mxfp4_e2m1_g16", "int3_g9", "uint8_g1", "float_fnuz_e3m4_g2", "nvfp4"):
        assert get_format(get_format(name).name) == get_format(name)


@pytest.mark.parametrize(
    "name",
    [*(row[0] for row in NAMED), *(f"{mx}_g16" for mx in MX_FORMATS), "mxint4", "mxint3_g5", "int4_g9", "uint8_g64",
     "float_e3m3_g7", "float_e4m3_g7", "float_ocp_e4m3_g7", "float_ocp_e5m2_g7", "float_fnuz_e5m2_g7",
     "mxfloat_e4m3", "mxfloat_fnuz_e4m3_g16", "mxfloat_ocp_e3m4_g8"],
)  # fmt: skip
def test_find_format_inverts_get_format(name):
    fmt = get_format(name)
    assert find_format(fmt.element, fmt.group_size, fmt.scale) == fmt
    assert get_format(fmt.name) == fmt


@pytest.mark.parametrize("kind", ["", "ocp_", "fnuz_"])
@pytest.mark.parametrize("scale", ["e8m0", "float32"])
def test_every_minifloat_has_a_name_of_its_own(kind, scale):
    prefix = {"e8m0": "mxfloat", "float32": "float"}[scale]
    formats = [get_format(f"{prefix}_{kind}e{e}m{m}_g8") for e in range(1, 8) for m in range(max(0, 1 - e), 8 - e)]
    assert all(get_format(fmt.name) == fmt and fmt.scale == scale for fmt in formats)
    assert len({fmt.name for fmt in formats}) == len(formats) == 28


def test_mxfloat_of_an_ocp_format_is_that_format():
    assert get_format("mxfloat_ocp_e4m3") is get_format("mxfp8_e4m3")
    assert get_format("mxfloat_e2m1_g8") == get_format("mxfp4_e2m1_g8")


def test_nvfp4_has_one_group_size_whichever_way_it_is_asked_for():
    with pytest.raises(FormatError, match="nvfp4 has groups of 16; there is none of 8"):
        find_format(FloatElement(2, 1), 8, "nvfp4")
    with pytest.raises(FormatError, match="unknown format 'nvfp4_g8'"):
        get_format("nvfp4_g8")
    x = np.ones((2, 16), np.float32)
    for group_size, name in ((16, "nvfp4"), (8, "float_e2m1_g8")):
        common = {"axis": 1, "group_size": group_size}
        attributes = common | ops.MXFloatQuant.attributes_of(FloatElement(2, 1))
        scale = np.ones((2, 16 // group_size), np.float32)
        made = ir.from_proto(single_node_model("MXFloatQuant", [x, scale], attributes))
        node = made.graph[0]
        made.graph.insert_before(node, ir.node("NVFP4Scale", [node.inputs[0]], common, domain=ops.DOMAIN))
        node.replace_input_with(1, made.graph[0].outputs[0])
        assert graph.quantizer_format(node) == get_format(name)


def test_a_group_format_passes_through():
    fmt = GroupFormat("mine", FloatElement(3, 3), 5, "e8m0")
    assert get_format(fmt) is fmt and mxexport.get_format(fmt) is fmt


# --- names nobody defined -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, near",
    [("mxfp8_e4m4", "mxfp8_e4m3"), ("mxfp6_e3m3", "mxfp6_e3m2"), ("MXFP4_e2m1", "mxfp4_e2m1"), ("mxint9", "mxint8"),
     ("nvfp4_g32", "nvfp4"), ("mxfp4", "mxfp4_e2m1")],
)  # fmt: skip
def test_an_unknown_name_gets_the_nearest_match(name, near):
    with pytest.raises(FormatError, match=f"unknown format '{name}'. Did you mean '{near}'"):
        get_format(name)


@pytest.mark.parametrize(
    "name",
    ["", "banana", "int1", "int1_g32", "int9_g32", "uint9", "int4_g32_s6", "int4_g0", "int4_g032", "int4_g-1",
     "int4_g1000000", "float_ieee_e4m3_g32", "mxint1", "mxint8_g0", " mxint8", "mxint8_g32_g32", None, 8],
)  # fmt: skip
def test_an_unknown_name_lists_names_and_families(name):
    with pytest.raises(FormatError, match=r"unknown format .*mxfp8_e4m3.*families: .*uint\{2\.\.8\}_g\{N\}"):
        get_format(name)


def test_a_format_error_is_a_value_error_with_exit_code_2():
    with pytest.raises(ValueError) as caught:
        get_format("banana")
    assert caught.value.exit_code == 2


# --- descriptions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, bits",
    [("mxfp8_e4m3", 8.25), ("mxfp4_e2m1", 4.25), ("nvfp4", 4.5), ("int4_g32", 5.0), ("uint4_g32", 5.25)],
)
def test_bits_per_element_count_the_scale_and_the_zero_point(name, bits):
    assert get_format(name).bits_per_element == bits


def test_describe_names_element_group_and_scale():
    assert get_format("uint4_g8").describe() == (
        "4-bit uint4 elements, groups of 8 share one float32 scale and a zero point"
    )
    mxfp8 = get_format("mxfp8_e4m3").describe()
    assert mxfp8 == "8-bit e4m3 elements, groups of 32 share one power-of-two (E8M0) scale"
