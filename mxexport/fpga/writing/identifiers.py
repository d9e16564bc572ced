"""Layer names as SystemVerilog identifiers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mxexport.model.names import free_name

_LONGEST = 100  # memory files are named after identifiers, and file systems end at 255 bytes

_WORDS = """
accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin bind bins
binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking cmos config const
constraint context continue cover covergroup coverpoint cross deassign default defparam design disable dist do edge
else end endcase endchecker endclass endclocking endconfig endfunction endgenerate endgroup endinterface endmodule
endpackage endprimitive endprogram endproperty endsequence endspecify endtable endtask enum event eventually expect
export extends extern final first_match for force foreach forever fork forkjoin function generate genvar global
highz0 highz1 if iff ifnone ignore_bins illegal_bins implements implies import incdir include initial inout input
inside instance int integer interconnect interface intersect join join_any join_none large let liblist library local
localparam logic longint macromodule matches medium modport module nand negedge nettype new nexttime nmos nor
noshowcancelled not notif0 notif1 null or output package packed parameter pmos posedge primitive priority program
property protected pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand randc randcase
randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos rpmos rtran rtranif0
rtranif1 s_always s_eventually s_nexttime s_until s_until_with scalared sequence shortint shortreal showcancelled
signed small soft solve specify specparam static string strong strong0 strong1 struct super supply0 supply1
sync_accept_on sync_reject_on table tagged task this throughout time timeprecision timeunit tran tranif0 tranif1 tri
tri0 tri1 triand trior trireg type typedef union unique unique0 unsigned until until_with untyped use uwire var
vectored virtual void wait wait_order wand weak weak0 weak1 while wildcard wire with within wor xnor xor
"""
KEYWORDS = frozenset(_WORDS.split())
"""Reserved words of IEEE 1800-2017 annex B, those of Verilog (IEEE 1364-2005) among them."""


def identifiers(names: Iterable[str]) -> list[str]:
    """One identifier for each of some different names, in order: ASCII letters, digits and single underscores.

    All differ, also where letter case is ignored, as some file systems do; none is a keyword. What no identifier may
    hold reads as an underscore, and a number tells apart what is then alike.
    """
    taken, found = set(KEYWORDS), []
    for name in names:
        text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST]
        wanted = text if text[:1].isalpha() else f"l{text}"
        lower = free_name(wanted.lower(), taken)
        taken.add(lower)
        found.append(wanted + lower[len(wanted) :])
    return found


def one_line(text: str) -> str:
    """`text` as one line of ASCII: a name must not end a comment, and not every tool reads other letters."""
    return text.encode("unicode_escape").decode("ascii")
