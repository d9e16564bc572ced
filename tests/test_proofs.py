"""Proofs by Yosys' SAT solver, for all inputs of a width: encoders and scales against what they are defined to be.

Products are not here: test_rtl_dot_products.py runs every pair of codes.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mxexport.fpga import library
from mxexport.fpga.tools import yosys
from mxexport.numbers import fixedpoint
from mxexport.numbers.formats import get_format
from tests.helpers import FULL

FORMATS = ["mxfp4_e2m1", "mxfp6_e2m3", "mxint8", "mxint4", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"]
QUICK, WIDTH = FORMATS[:4], 24

ENCODER = """// An encoder's code is the nearest element, the even one of two, or the largest.
module proof (
  input logic aclk, input logic [WIDTH-1:0] magnitude_i, input logic [$clog2(SHIFTMAX+1)-1:0] shift_i,
  input logic sign_i, output logic ok
);
  localparam int Shift0 = SHIFT0, ShiftBits = $clog2(SHIFTMAX + 1), Width = WIDTH, Binades = BINADES;
  localparam int Exp = EXP, Man = MAN, MaxCode = MAXCODE, Bits = mx_pkg::element_bits(Exp, Man);
  localparam int Wide = 96;
  // Inputs of as many cycles ago as the encoder takes.
  localparam int Latency = mx_pkg::encodes_wide(Binades) ? 4 : 2;
  logic [Latency:0][Width-1:0] magnitudes;
  logic [Latency:0][ShiftBits-1:0] shifts;
  logic [Latency:0] signs;
  assign magnitudes[0] = magnitude_i;
  assign shifts[0] = shift_i;
  assign signs[0] = sign_i;
  for (genvar i = 1; i <= Latency; i++) begin : g_delay
    always_ff @(posedge aclk) begin
      magnitudes[i] <= magnitudes[i-1];
      shifts[i] <= shifts[i-1];
      signs[i] <= signs[i-1];
    end
  end
  logic [Width-1:0] magnitude;
  logic [ShiftBits-1:0] shift;
  logic sign;
  assign magnitude = magnitudes[Latency];
  assign shift = shifts[Latency];
  assign sign = signs[Latency];

  logic [Bits-1:0] code;
  if (mx_pkg::encodes_wide(Binades)) begin : g_wide
    mx_encode_wide #(.Width(Width), .ExpBits(Exp), .ManBits(Man), .MaxCode(MaxCode), .Binades(Binades), .FloorBits(9),
                     .FloorMax(Shift0 + Man + SHIFTMAX)) u_encode (
      .aclk, .en_i(1'b1), .magnitude_i, .sign_i, .floor_i(9'(Shift0 + Man) + 9'(shift_i)), .code_o(code));
  end else begin : g_narrow
    mx_encode #(.Width(Width), .ExpBits(Exp), .ManBits(Man), .MaxCode(MaxCode), .Binades(Binades), .Shift0(Shift0),
                .ShiftBits(ShiftBits), .ShiftMax(SHIFTMAX)) u_encode (
      .aclk, .en_i(1'b1), .magnitude_i, .sign_i, .shift_i, .code_o(code));
  end

  // The magnitude that the code stands for, and its linear value and those of its neighbours.
  logic [Bits-2:0] c;
  logic signs_agree;
  if (Exp == 0) begin : g_int
    logic [Bits-1:0] positive;
    assign positive = sign ? -code : code;
    assign c = positive[Bits-2:0];
    assign signs_agree = !positive[Bits-1];
  end else begin : g_float
    assign c = code[Bits-2:0];
    assign signs_agree = code[Bits-1] == sign;
  end
  function automatic logic [Wide-1:0] linear(int index);  // wider than mx_pkg::linear_magnitude
    int field;
    field = index >> Man;
    if (Exp == 0 || field == 0) return Wide'(index);
    return Wide'((index & ((1 << Man) - 1)) + (1 << Man)) << (field - 1);
  endfunction
  logic [Wide-1:0] table_q [1 << (Bits - 1)];
  for (genvar i = 0; i < 1 << (Bits - 1); i++) begin : g_table
    assign table_q[i] = linear(i);
  end

  // Everything in units of 2**-OFFSET, doubled: midpoints are whole.
  localparam int OFFSET = Shift0 < 0 ? -Shift0 : 0;
  logic [Wide-1:0] value, above, below;
  assign value = Wide'(magnitude) << (1 + OFFSET);
  assign above = (table_q[c] + table_q[c + (c != MaxCode)]) << (Shift0 + OFFSET + 32'(shift));
  assign below = (table_q[c] + table_q[c - (c != 0)]) << (Shift0 + OFFSET + 32'(shift));

  // What the scale guarantees: magnitudes lie within the largest binade, unless the scale was clamped.
  logic possible;
  assign possible = shift == ShiftBits'(SHIFTMAX) ||
                    (shift < ShiftBits'(SHIFTMAX) && Wide'(magnitude) << OFFSET
                     < Wide'(1) << (Man + 1 + Binades + Shift0 + OFFSET + 32'(shift)));
  assign ok = !possible || (signs_agree && c <= MaxCode
              && (c == MaxCode || value < above || (value == above && !c[0]))
              && (c == 0 || value > below || (value == below && !c[0])));
endmodule
"""

SCALE = """// The scale of a block of one beat: the binade of its largest magnitude, clamped.
module proof (input logic aclk, input logic [1:0][23:0] magnitude_i, output logic ok);
  localparam int Width = 24, Lanes = 2, Base = 100, Low = LOW, High = HIGH;
  localparam int Latency = BIAS == 0 ? 3 : 5;
  logic [Latency:0][Lanes-1:0][Width-1:0] magnitudes;
  assign magnitudes[0] = magnitude_i;
  for (genvar i = 1; i <= Latency; i++) begin : g_delay
    always_ff @(posedge aclk) magnitudes[i] <= magnitudes[i-1];
  end
  logic [Lanes-1:0][Width-1:0] magnitude;
  assign magnitude = magnitudes[Latency];
  logic valid, clamped;
  logic [7:0] scale;
  logic [4:0] shift;
  localparam int ScaleBase = mx_pkg::clip(Base, Low, High);
  mx_block_scale #(.Width(Width), .Lanes(Lanes), .LsbExp(Base - 127), .Emax(0), .RoundBias(BIAS), .CodeMin(Low),
                   .CodeMax(High), .ShiftBits(5), .ScaleBase(ScaleBase)) u_scale (
    .aclk, .aresetn(1'b1), .valid_i(1'b1), .last_i(1'b1), .magnitude_i, .valid_o(valid), .scale_o(scale),
    .shift_o(shift), .clamped_o(clamped));
  logic [Width-1:0] most;
  assign most = magnitude[0] > magnitude[1] ? magnitude[0] : magnitude[1];
  // own = floor(log2(most)) + Base, one more where the 23 bits below the leading one plus BIAS carry (bits beyond
  // them count as one more bit set in the last): by comparing most with 2**k and with what rounds up to 2**k.
  function automatic logic reaches(logic [Width-1:0] m, int k);
    logic [47:0] wide;
    wide = 48'(m) << 23;
    if (m >> k != 0) return 1'b1;                       // 2**k or more
    if (k == 0 || m >> (k - 1) == 0) return 1'b0;       // below 2**(k-1)
    return (wide >> (k - 1)) - (48'd1 << 23) + 48'(BIAS) >= 48'd1 << 23;
  endfunction
  logic [7:0] own;
  always_comb begin
    own = 8'(Base);
    for (int k = 1; k <= Width; k++) if (reaches(most, k)) own = 8'(Base + k);
  end
  logic [7:0] wanted;
  assign wanted = (most == 0 || own < 8'(Low)) ? 8'(Low) : (own > 8'(High)) ? 8'(High) : own;
  assign ok = valid && scale == wanted && clamped == (most != 0 && (own < 8'(Low) || own > 8'(High)))
              && (most == 0 || 8'(shift) == wanted - 8'(ScaleBase));
endmodule
"""


def proved(text: str, steps: int, tmp_path) -> bool:
    """Whether `ok` of module proof holds for every input, `steps` cycles from a start in any state."""
    (tmp_path / "proof.sv").write_text(text)
    files = [str(path) for path in (*library.rtl_sources(), tmp_path / "proof.sv")]
    commands = [
        ["read_slang", "--no-implicit-memories", "--top", "proof", *files],
        ["proc"], ["flatten"], ["opt"], ["async2sync"], ["opt"],
        ["sat", "-seq", str(steps + 1), "-prove-skip", str(steps), "-prove", "ok", "1", "-verify"],
    ]  # fmt: skip
    run = [sys.executable, "-c", yosys._CHILD]
    done = subprocess.run(run, input=json.dumps(commands), capture_output=True, text=True, cwd=tmp_path)
    found = "SAT proof finished - no model found: SUCCESS!" in done.stdout
    assert found == (done.returncode == 0) and (found or "model found: FAIL!" in done.stdout), done.stdout[-3000:]
    return found


def encoder(name: str, width: int, offset: int, span: int, **changed: int) -> str:
    element = get_format(name).element
    p = fixedpoint.element_parameters(element)
    integer = not p["exponent_bits"]
    found = {
        "EXP": p["exponent_bits"],
        "MAN": p["mantissa_bits"],
        "MAXCODE": p["max_code"],
        "BINADES": 0 if integer else element.emax - (1 - p["exponent_bias"]),
        "WIDTH": width,
        "SHIFT0": offset,
        "SHIFTMAX": span,
    }
    text = ENCODER
    for key in sorted(found, key=len, reverse=True):
        text = text.replace(key, f"({(found | changed)[key]})")
    return text


@pytest.mark.parametrize("name", FORMATS if FULL else QUICK)
def test_codes_are_the_nearest_elements_for_all_magnitudes(name, tmp_path):
    element = get_format(name).element
    binades = (
        0 if name.startswith("mxint") else element.emax - (1 - fixedpoint.element_parameters(element)["exponent_bias"])
    )
    # The lowest scale puts the largest binade at the lowest bit of the accumulator.
    offset = -(binades + fixedpoint.element_parameters(element)["mantissa_bits"])
    assert proved(encoder(name, WIDTH, offset, WIDTH - 3), 5, tmp_path)


def test_a_wrong_encoder_is_not_proved(tmp_path):
    assert not proved(encoder("mxfp4_e2m1", 10, -3, 7, SHIFT0=-3).replace("!c[0]", "c[0]"), 5, tmp_path)


@pytest.mark.parametrize("low, high", [(96, 130), (104, 115), (115, 130)])
@pytest.mark.parametrize("bias", [0, *([1 << 21, 0x7FFFFF] if FULL else [1 << 21])])
def test_scales_are_the_binade_of_the_largest_magnitude(low, high, bias, tmp_path):
    assert proved(scale(low, high, bias), 8, tmp_path)


def test_a_wrong_scale_is_not_proved(tmp_path):
    assert not proved(scale(104, 115, 0).replace("own = 8'(Base + k)", "own = 8'(Base + k + (k == 7))"), 8, tmp_path)


def scale(low: int, high: int, bias: int) -> str:
    return SCALE.replace("LOW", str(low)).replace("HIGH", str(high)).replace("BIAS", str(bias))
