"""What a quantizer and the dequantizer of the same kind say of an element format, declared once."""

from __future__ import annotations

from mxexport.errors import FormatError
from mxexport.numbers.formats import FloatElement, IntElement
from mxexport.ops._attributes import AXIS, GROUP_SIZE, Attribute
from mxexport.ops._operator import Operator


class IntegerOperator(Operator):
    """Base of the operators on integer elements."""

    element_attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE,
        "bit_width": Attribute("i", "bits of one integer code", 2, 8),
        "signed": Attribute("i", "1: two's complement; 0: unsigned", 0, 1),
    }

    @classmethod
    def element_of(cls, attributes: dict, power_of_two: bool = False) -> IntElement:
        """The element format that node attributes describe; MX integers carry bit_width - 2 fraction bits."""
        bits, signed = attributes["bit_width"], bool(attributes["signed"])
        return IntElement(bits, signed, frac_bits=bits - 2 if power_of_two and signed else 0)


class FloatOperator(Operator):
    """Base of the operators on minifloat elements; `attributes_of` says how they describe one."""

    element_attributes = {
        "axis": AXIS,
        "group_size": GROUP_SIZE,
        "exponent_bits": Attribute("i", "exponent bits of the element", 1, 8),
        "mantissa_bits": Attribute("i", "mantissa bits of the element", 0, 23),
        "exponent_bias": Attribute("i", "exponent bias of the element", -126, 127),
        "signed_zero": Attribute("i", "0: the format has no -0, whose code is NaN (fnuz)", 0, 1),
    }

    @classmethod
    def attributes_of(cls, element: FloatElement) -> dict[str, int | float]:
        """The element attributes of a format; operators add their own."""
        return {
            "exponent_bits": element.exponent_bits,
            "mantissa_bits": element.mantissa_bits,
            "exponent_bias": element.bias,
            "signed_zero": int(element.signed_zero),
        }

    @classmethod
    def element_of(cls, attributes: dict, power_of_two: bool = False) -> FloatElement:
        """The element format that node attributes describe. Raises FormatError when no format has them."""
        for specials in ("none", "nan", "ieee", "fnuz"):
            element = FloatElement(attributes["exponent_bits"], attributes["mantissa_bits"], specials)
            described = cls.attributes_of(element)
            if all(attributes[name] == value for name, value in described.items() if name != "signed"):
                return element
        raise FormatError(f"no element format has the attributes {attributes}")
