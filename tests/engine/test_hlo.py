"""Collectives and traffic, read from the text of a program."""

from sak_jax.engine import hlo

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slice_one (p.0: f32[6,4,8], p.1: s32[]) -> f32[1,4,8] {
  %p.0 = f32[6,4,8]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,4,8]{2,1,0} dynamic-slice(%p.0, %p.1, %zero, %zero), dynamic_slice_sizes={1,4,8}
}

%all-reduce-scatter.1 (p.2: f32[8,8]) -> f32[2,8] {
  %p.2 = f32[8,8]{1,0} parameter(0)
  %summed = f32[8,8]{1,0} all-reduce(%p.2), channel_id=4, replica_groups=[1,4]<=[4], to_apply=%add
  %nought = s32[] constant(0)
  ROOT %mine = f32[2,8]{1,0} dynamic-slice(%summed, %nought, %nought), dynamic_slice_sizes={2,8}
}

%body (carry: (s32[], f32[6,4,8])) -> (s32[], f32[6,4,8]) {
  %carry = (s32[], /*index=1*/f32[6,4,8]{2,1,0:T(4,8)}) parameter(0)
  %index = s32[] get-tuple-element(%carry), index=0
  %stack = f32[6,4,8]{2,1,0:T(4,8)} get-tuple-element(%carry), index=1
  %kernel = (f32[1]{0}) custom-call(%index), custom_call_target="kernel", frontend_attributes={kernel_metadata={
"block": "{\\"block_q\\": 512}"
}}, metadata={op_name="jit(step)/pallas_call"}, backend_config={}
  %layer = f32[1,4,8]{2,1,0:T(4,8)} fusion(%stack, %index), kind=kLoop, calls=%slice_one
  %whole = f32[4,4,8]{2,1,0:T(4,8)S(1)} all-gather(%layer), channel_id=1, replica_groups=[2,2]<=[4], dimensions={0}
  %again = f32[4,4,8]{2,1,0:T(4,8)S(1)} all-gather(%layer), channel_id=1, replica_groups=[2,2]<=[4], dimensions={0}
  ROOT %next = (s32[], f32[6,4,8]{2,1,0:T(4,8)}) tuple(%index, %stack)
}

%condition (carry.1: (s32[], f32[6,4,8])) -> pred[] {
  %carry.1 = (s32[], f32[6,4,8]{2,1,0}) parameter(0)
  %at = s32[] get-tuple-element(%carry.1), index=0
  %rounds = s32[]{:T(128)} constant(6)
  ROOT %less = pred[] compare(%at, %rounds), direction=LT
}

ENTRY %main (x: f32[6,4,8], y: f32[8,8]) -> f32[2,8] {
  %x = f32[6,4,8]{2,1,0} parameter(0)
  %y = f32[8,8]{1,0} parameter(1)
  %start = s32[] constant(0)
  %pair = (s32[], f32[6,4,8]{2,1,0}) tuple(%start, %x)
  %loop = (s32[], f32[6,4,8]{2,1,0}) while(%pair), condition=%condition, body=%body
  %mean = bf16[8,8]{1,0} all-reduce(%y), channel_id=2, replica_groups={{0,1,2,3}}, to_apply=%add
  %alone = f32[8,8]{1,0} all-reduce(%y), channel_id=3, replica_groups={{0},{1}}, to_apply=%add
  ROOT %part = f32[2,8]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_collectives_are_counted_through_loops_once_a_channel_and_by_the_size_of_their_group():
    found = hlo.Program(PROGRAM).collectives(4)
    gather, reduce, scatter = found["all-gather"], found["all-reduce"], found["reduce-scatter"]
    assert set(found) == {"all-gather", "all-reduce", "reduce-scatter"}
    assert (gather.count, gather.bytes, gather.sent) == (6, 6 * 512, 6 * 256)  # Six rounds of 4 x 4 x 8 float32.
    assert (reduce.count, reduce.bytes, reduce.sent) == (1, 128, 2 * 128 * 3 / 4)  # Alone in its group is none.
    assert (scatter.count, scatter.bytes, scatter.sent) == (1, 256, 256 * 3 / 4)  # Its operands.


def test_a_line_that_goes_on_in_the_next_is_one():
    program = hlo.Program(PROGRAM)
    assert set(program.computations["body"]) == {"carry", "index", "stack", "kernel", "layer", "whole", "again", "next"}
    assert 'op_name="jit(step)/pallas_call"' in program.computations["body"]["kernel"].attributes


def test_memory_traffic_counts_slices_and_leaves_out_fast_memory():
    layer = 4 * 8 * 4
    # Cut out and written, the index; the kernel's operand and result; read by the two gathers' lines; the condition's
    # two numbers and its answer.
    loop = 6 * (layer + layer + 4 + 4 + 4 + 2 * layer + 4 + 4 + 1)
    rest = (256 + 128) + (256 + 256) + (256 + 64)
    assert hlo.Program(PROGRAM).memory_traffic() == loop + rest


def test_arrays_lie_in_tiles_in_memory():
    text = """ENTRY %main (x: bf16[3,14,14], y: f32[5]) -> bf16[3,14,14] {
  %x = bf16[3,14,14]{2,0,1:T(8,128)(2,1)} parameter(0)
  %y = f32[5]{0:T(256)} parameter(1)
  ROOT %same = bf16[3,14,14]{2,0,1:T(8,128)(2,1)} custom-call(%x, %y)
}
"""
    assert hlo.Program(text).memory_traffic() == 2 * (14 * 8 * 128) * 2 + 256 * 4


def test_a_loop_that_says_how_often_it_runs():
    text = PROGRAM.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert hlo.Program(text).rounds["body"] == 5


def test_groups_along_axes_of_a_mesh():
    line = "replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}"
    assert hlo._group(line, 8) == 4
    turned = "replica_groups=mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}, dimensions={1}"
    assert hlo._group(turned, 8) == 4
    assert hlo._group("", 8) == 8
