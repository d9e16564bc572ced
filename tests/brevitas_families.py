"""Quantizers of Brevitas 0.13.4, one entry per behaviour, made the way its users make them."""

from __future__ import annotations

import torch
from brevitas import quant as q
from brevitas.core.function_wrapper.ops_ste import CeilSte, RoundSte
from brevitas.core.quant.int import RescalingIntQuant
from brevitas.core.restrict_val import FloatRestrictValue, QuantRestrictValue
from brevitas.core.scaling.float_scaling import RoundMidMaxSte
from brevitas.core.zero_point import _ScaleShiftQuantZeroPoint
from brevitas.inject.enum import RestrictValueType, ScalingPerOutputType, StatsOp
from brevitas.proxy.groupwise_float_parameter_quant import GroupwiseWeightFloatQuantProxyFromInjector
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.quant import (
    float_quant_fnuz as fnuz,
    float_quant_ocp as ocp,
    mx_quant_ocp as mx,
    scaled_int,
    shifted_scaled_int,
)
from brevitas_examples.common.generative import quantizers as generative
from dependencies import this, value


def variant(base: type, **changes) -> type:
    """A quantizer with some of its attributes changed."""
    return type(f"{base.__name__}_variant", (base,), changes)


ELEMENTS = {
    "e5m2": {"bit_width": 8, "exponent_bit_width": 5, "mantissa_bit_width": 2},
    "e4m3": {"bit_width": 8, "exponent_bit_width": 4, "mantissa_bit_width": 3},
    "e3m2": {"bit_width": 6, "exponent_bit_width": 3, "mantissa_bit_width": 2},
    "e2m3": {"bit_width": 6, "exponent_bit_width": 2, "mantissa_bit_width": 3},
    "e2m1": {"bit_width": 4, "exponent_bit_width": 2, "mantissa_bit_width": 1},
}
FLOAT_SCALE = {"restrict_scaling_type": RestrictValueType.FP, "restrict_threshold_impl": FloatRestrictValue}
ROUNDED_SCALE = {"ceil": CeilSte, "round": RoundSte, "midmax": RoundMidMaxSte}


def _groupwise(float_base: type, int_base: type) -> dict[str, type]:
    """MX quantizers by name; `float_scale` has float scales, `ceil` and so on say how the exponent is rounded."""
    made = {f"mx_{name}": variant(float_base, **bits) for name, bits in ELEMENTS.items()}
    made |= {"mx_int8": int_base, "mx_int4": variant(int_base, bit_width=4)}
    made["mx_int8_narrow"] = variant(int_base, narrow_range=True)
    made["mx_e4m3_g16"] = variant(float_base, group_size=16)
    for name in ("mx_e4m3", "mx_e2m1", "mx_int8"):
        for rounding, impl in ROUNDED_SCALE.items():
            if (name, rounding) != ("mx_int8", "midmax"):
                made[f"{name}_{rounding}"] = variant(made[name], restrict_value_float_to_int_impl=impl)
    for name in ("mx_e4m3", "mx_e2m1", "mx_int8", "mx_int8_narrow"):
        made[f"{name}_float_scale"] = variant(made[name], **FLOAT_SCALE)
    return made


GROUPS = {"group_size": 32, "scaling_per_output_type": ScalingPerOutputType.GROUP}
INT_GROUPS = GROUPS | {"proxy_class": GroupwiseWeightQuantProxyFromInjector}
FLOAT_GROUPS = GROUPS | {"proxy_class": GroupwiseWeightFloatQuantProxyFromInjector}
SIGNED_SCALE = {"restrict_scaling_type": RestrictValueType.SIGNED_FP, "scaling_stats_op": StatsOp.SIGNED_MAX}
LANGUAGE_MODEL_WEIGHTS = {  # as the examples of Brevitas make them for language models
    "int8_groups": variant(q.Int8WeightPerChannelFloat, **INT_GROUPS),
    "int4_groups_mse": variant(q.Int8WeightPerChannelFloatMSE, bit_width=4, **INT_GROUPS),
    "int4_signed_scale": variant(
        q.Int8WeightPerChannelFloat, bit_width=4, narrow_range=False, **INT_GROUPS, **SIGNED_SCALE
    ),
    "uint8_groups_hqo": shifted_scaled_int.ShiftedUint8WeightPerGroupFloatHQO,
    "e4m3_groups": variant(ocp.Fp8e4m3OCPWeightPerChannelFloat, **FLOAT_GROUPS),
    "e4m3_signed_scale": variant(ocp.Fp8e4m3OCPWeightPerChannelFloat, **FLOAT_GROUPS, **SIGNED_SCALE),
}
GROUP_WEIGHTS = _groupwise(mx.MXFloat8e4m3Weight, mx.MXInt8Weight) | {
    "mx_uint8": mx.ShiftedMXUInt8Weight,
    "mx_uint8_float_scale": variant(mx.ShiftedMXUInt8Weight, **FLOAT_SCALE),
    "mx_uint8_mse": mx.ShiftedMXUInt8WeightMSE,
    "mx_int8_mse": mx.MXInt8WeightMSE,
    "mx_e4m3_mse": mx.MXFloat8e4m3WeightMSE,
    "mx_e4m3_mse_float_scale": variant(mx.MXFloat8e4m3WeightMSE, **FLOAT_SCALE),
    "mx_e4m3_learned": variant(mx.MXFloat8e4m3Weight, scaling_impl_type="parameter_from_stats"),
    "mx_int8_learned_float_scale": variant(mx.MXInt8Weight, scaling_impl_type="parameter_from_stats", **FLOAT_SCALE),
}
GROUP_WEIGHTS |= LANGUAGE_MODEL_WEIGHTS


def _quantizer_of(shape: str) -> type:
    """6-bit groups of 3 along the scales (or zero points) of the quantizer it is part of; `shape` names their shape."""

    @value
    def tracked_parameter_list(outer_shape):
        return [torch.empty(outer_shape)]

    @value
    def scaling_shape(expanded_groupwise_shape, group_dim):
        return (*expanded_groupwise_shape[: group_dim + 1], 1, *expanded_groupwise_shape[group_dim + 2 :])

    return variant(
        q.Int8WeightPerTensorFloat,
        module=(this << 1).module,
        outer_shape=getattr(this << 1, shape),
        tracked_parameter_list=tracked_parameter_list,
        scaling_shape=scaling_shape,
        rescaling_int_quant=RescalingIntQuant,
        restrict_threshold_impl=FloatRestrictValue,
        scaling_per_output_type=ScalingPerOutputType.GROUP,
        group_size=3,
        bit_width=6,
        signed=False,
    )


NESTED_SCALE = INT_GROUPS | {
    "scale_quantizer": _quantizer_of("scaling_shape"),
    "restrict_scaling_impl": QuantRestrictValue,
    "restrict_threshold_impl": FloatRestrictValue,
    "restrict_value_float_to_int_impl": this.scale_quantizer.rescaling_int_quant,
    "scale_dequantized_shape": this.scaling_shape,
}
NESTED_ZERO_POINT = {
    "zero_point_quantizer": _quantizer_of("zero_point_shape"),
    "scale_shift_zero_point_impl": _ScaleShiftQuantZeroPoint,
    "zp_int_quant": this.zero_point_quantizer.rescaling_int_quant,
    "zero_point_dequantized_shape": this.zero_point_shape,
}
GROUP_WEIGHTS |= {
    "int4_nested": variant(q.Int8WeightPerTensorFloat, bit_width=4, **NESTED_SCALE),
    "uint4_nested_scale": variant(shifted_scaled_int.ShiftedUint8WeightPerTensorFloat, bit_width=4, **NESTED_SCALE),
    "uint4_nested": variant(
        shifted_scaled_int.ShiftedUint8WeightPerTensorFloat, bit_width=4, **NESTED_SCALE, **NESTED_ZERO_POINT
    ),
}
GROUP_ACTIVATIONS = _groupwise(mx.MXFloat8e4m3Act, mx.MXInt8Act)
MX_ACTIVATIONS = {name: a for name, a in GROUP_ACTIVATIONS.items() if "float_scale" not in name}

PLAIN_WEIGHTS = {
    "int8_tensor": q.Int8WeightPerTensorFloat,
    "int8_channel": q.Int8WeightPerChannelFloat,
    "int8_mse": q.Int8WeightPerTensorFloatMSE,
    "int8_hqo": scaled_int.Int8WeightPerChannelFloatHQO,
    "int8_fixed_point": q.Int8WeightPerTensorFixedPoint,
    "int8_decoupled": q.Int8WeightPerChannelFloatDecoupled,
    "int8_weight_norm": q.Int8WeightNormL2PerChannelFixedPoint,
    "int4_decoupled": q.Int4WeightPerTensorFloatDecoupled,
    "uint8_tensor": shifted_scaled_int.ShiftedUint8WeightPerTensorFloat,
    "uint8_channel": shifted_scaled_int.ShiftedUint8WeightPerChannelFloat,
    "binary": q.SignedBinaryWeightPerTensorConst,
    "ternary": q.SignedTernaryWeightPerTensorConst,
    "e4m3_tensor": ocp.Fp8e4m3OCPWeightPerTensorFloat,
    "e5m2_channel": ocp.Fp8e5m2OCPWeightPerChannelFloat,
    "e4m3_unscaled": ocp.Fp8e4m3OCPWeight,
    "e4m3_fnuz": fnuz.Fp8e4m3FNUZWeightPerTensorFloat,
    "e4m3_channel_signed_scale": variant(ocp.Fp8e4m3OCPWeightPerChannelFloat, **SIGNED_SCALE),
    "int4_channel_signed_scale": variant(q.Int8WeightPerChannelFloat, bit_width=4, narrow_range=False, **SIGNED_SCALE),
}
PLAIN_ACTIVATIONS = {
    "int8": q.Int8ActPerTensorFloat,
    "int8_mse": q.Int8ActPerTensorFloatMSE,
    "int8_fixed_point": q.Int8ActPerTensorFixedPoint,
    "int8_floor": variant(q.Int8ActPerTensorFloat, float_to_int_impl_type="floor"),
    "int8_ceil": variant(q.Int8ActPerTensorFloat, float_to_int_impl_type="ceil"),
    "int8_to_zero": variant(q.Int8ActPerTensorFloat, float_to_int_impl_type="round_to_zero"),
    "uint8": q.Uint8ActPerTensorFloat,
    "uint8_asymmetric": shifted_scaled_int.ShiftedUint8ActPerTensorFloat,
    "binary": q.SignedBinaryActPerTensorConst,
    "ternary": q.SignedTernaryActPerTensorConst,
    "e4m3": ocp.Fp8e4m3OCPActPerTensorFloat,
    "e5m2_unscaled": ocp.Fp8e5m2OCPAct,
    "e4m3_fnuz": fnuz.Fp8e4m3FNUZActPerTensorFloat,
}


def _per_row(base: type) -> type:
    """As the examples of Brevitas set up one scale per token."""
    return base.let(
        dynamic_scaling_broadcastable_fn=lambda x, shape: x.view(*shape[:-1], 1), permute_dims=None, stats_reduce_dim=1
    )


FRACTIONS = {"quantize_zero_point": False}
RUN_TIME_ACTIVATIONS = {
    "int8_tensor": generative.Int8DynamicActPerTensorFloat,
    "uint8_tensor": generative.ShiftedUint8DynamicActPerTensorFloat,
    "uint4_tensor_fractions": generative.ShiftedUint8DynamicActPerTensorFloat.let(bit_width=4, **FRACTIONS),
    "e4m3_tensor": generative.Fp8e4m3OCPDynamicActPerTensorFloat,
    "e4m3_fnuz_tensor": generative.Fp8e4m3FNUZDynamicActPerTensorFloat,
    "int8_row": _per_row(generative.Int8DynamicActPerRowFloat),
    "int4_row": _per_row(generative.Int8DynamicActPerRowFloat).let(bit_width=4),
    "int8_row_power_of_two": _per_row(generative.Int8DynamicActPerRowFixedPoint),
    "uint8_row": _per_row(generative.ShiftedUint8DynamicActPerRowFloat),
    "uint8_row_fractions": _per_row(generative.ShiftedUint8DynamicActPerRowFloat).let(**FRACTIONS),
    "e4m3_row": _per_row(generative.FP8e4m3OCPDynamicActPerRowFloat),
    "e4m3_row_power_of_two": _per_row(generative.FP8e4m3OCPDynamicActPerRowFixedPoint),
    "uint8_groups": generative.ShiftedUint8DynamicActPerGroupFloat.let(group_size=32, group_dim=-1, **FRACTIONS),
}
"""Scales found at run time, without groups or with zero points."""
