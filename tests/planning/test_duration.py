import pathlib
import re

import jax
import pytest

from sagan import state
from sagan.cli import main
from sagan.config import replace
from sagan.planning import duration, topology
from sagan.planning.program import Program, buffers
from sagan.training.parallel import abstract_arguments, map_step

V5E = topology.parse("v5e:2x4")
CHIP = duration.CHIPS["v5e"]

# Shortened from what libtpu prints: a product of 256x256 matrices, of which a copy to
# VMEM comes first; a loop of 5 that squares a slice and writes it back; a sum to
# float32, an all-reduce, and a branch.
STEP = (pathlib.Path(__file__).parent / "step.hlo").read_text()


def test_a_type_has_its_size_and_its_padded_bytes_in_main_memory():
    both = "(f32[4,100]{1,0:T(8,128)}, /*index=1*/bf16[3,5]{0,1:T(8,128)(2,1)S(1)})"
    assert buffers(both) == [((4, 100), 1600, 4 * 8 * 128), ((3, 5), 30, 0)]
    # the fastest axis comes first in the layout: 100 is the one padded to 104
    assert buffers("pred[100,128]{1,0:T(8,128)}")[0].held == 104 * 128
    assert buffers("u8[100,128]{0,1:T(8,128)}")[0].held == 128 * 128
    assert buffers("f32[]{:T(128)}") == [((), 4, 4)]
    assert buffers("s32[7]{0:T(128)}") == [((7,), 28, 512)]


def test_operations_by_hand():
    matrix, cube = 2 * 256**2, 2 * 256**3
    dot, square, negate = Program(STEP).operations  # nothing of the cheaper branch
    assert dot[1:] == (1, cube, 2 * matrix, 1500)  # one operand is in VMEM
    # of the array it reads and writes only the slice, 5 times
    assert square[1:] == (5, cube, 2 * matrix, 3000)
    assert negate[1:] == (1, 0, matrix + 4 * 8 * 128, None)


def test_a_strided_convolution_counts_no_padding():
    text = """
ENTRY %main (x: f32[2,5,3], k: f32[3,3,7]) -> f32[2,3,7] {
  %x = f32[2,5,3]{2,1,0} parameter(0)
  %k = f32[3,3,7]{2,1,0} parameter(1)
  ROOT %c = f32[2,3,7]{2,1,0} convolution(%x, %k), WINDOW, AXES
}
""".replace("WINDOW", "window={size=3 stride=2 pad=1_1}").replace(
        "AXES", "dim_labels=b0f_0io->b0f"
    )
    # outputs at 0, 2 and 4 of 5 positions: the first and the last miss a weight
    (one,) = Program(text).operations
    assert one.flops == 2 * 2 * 3 * 7 * (2 + 3 + 2)
    holes = text.replace("stride=2", "lhs_dilate=2").replace("f32[2,3,7]", "f32[2,9,7]")
    (one,) = Program(holes).operations  # 5 inputs, and a hole after each but the last
    assert one.flops == 2 * 2 * 3 * 7 * (5 * 1 + 4 * 2)


def test_seconds_by_hand():
    dot, square, negate = Program(STEP).operations
    moved, computed = 4 * 256**2 / 819e9, 2 * 256**3 / 197e12
    assert duration.seconds(dot, CHIP) == pytest.approx(
        (1e-6, 1e-6, max(moved, computed))  # 1500 cycles at 1.5 GHz
    )
    assert duration.seconds(square, CHIP) == pytest.approx((1e-5, 1e-5, 5 * moved))
    cycles, mixed, roofline = duration.seconds(negate, CHIP)
    assert cycles == 0 and mixed == 0.5e-6 and roofline < mixed
    large = negate._replace(bytes=819_000_000)
    assert duration.seconds(large, CHIP) == pytest.approx((0, 1e-3 / 0.9, 1e-3))


def test_time_is_told_by_layer_and_by_phase():
    operations = Program(STEP).operations
    by_layer = duration.grouped(operations, CHIP, duration.layer)
    assert list(by_layer) == ["d/attention8", "g/block1/conv1", "rest"]
    assert by_layer["d/attention8"].mixed == pytest.approx(1e-5)
    by_phase = duration.grouped(operations, CHIP, duration.phase)
    assert list(by_phase) == ["D update, d forward", "G update, g backward", "between"]


def test_collectives_take_a_ring():
    time = duration.communication(Program(STEP), V5E, CHIP)
    assert time == pytest.approx(2 * 7 / 8 * 1600 / 90e9)
    assert duration.communication(Program(STEP), topology.parse("v5e:1x1"), CHIP) == 0


def test_the_lines_by_hand(tiny):
    config = tiny(data__batch=16, run__steps=3600, optim__d_steps=2)
    program = Program(STEP.replace('"1500"', '"1500000"'))
    said = "\n".join(duration.lines(config, V5E, program, price=2.0))
    # 1 ms + 10 us + 0.5 us, and 31 ns of all-reduce
    assert re.search(r"time of a step: [\d.]+ to 1(\.0)?, likely 1(\.0)? ms", said)
    images = re.search(r"images/s: ([\d,]+) to [\d,]+, likely", said)
    assert images and images[1] == "31,667"  # 32 in 1.0105 ms
    assert "of a chip 3,958 to" in said and "of a host of 4 15,833 to" in said
    assert re.search(r"hours of 3,600 steps: \S+ to 0.001, likely 0.001", said)
    assert re.search(r"price at 2 for a chip and hour: \S+ to 0.016", said)
    assert "never compared with a chip" in said


@pytest.mark.parametrize("text", ["", "HloModule x", STEP.replace("estimated", "no")])
def test_a_program_without_cycles_says_so_in_one_line(tiny, text):
    (line,) = duration.lines(tiny(), V5E, Program(text))
    assert line == "time of a step: unknown: the program has no estimated_cycles"


def test_cut_off_text_is_read_as_far_as_it_goes():
    for end in range(0, len(STEP), 97):
        for operation in Program(STEP[:end]).operations:
            assert operation.times in (1, 5)


def test_chips_of_a_topology_with_two_devices_each():
    assert topology.chips(topology.parse("v4:2x2x2")) == 8
    assert topology.chips(topology.parse("v5e:4x4")) == 16


@pytest.mark.parametrize("price", ["", "free", "-1", "nan", "inf"])
def test_a_bad_price_is_one_line(price, capsys):
    args = ["configs/digits.py", "--topology", "v5e:2x4", "--price", price]
    assert main.run(main.plan_command, args) == 2
    error = capsys.readouterr().err
    assert "--price" in error and price in error and len(error.splitlines()) == 1


def test_both_updates_are_named_in_a_step(tiny):
    game = state.make_game(replace(tiny(), {"run.parallel": "jit"}))
    one = jax.devices()[:1]
    lowered = map_step(game, one).lower(*abstract_arguments(game, one))
    text = lowered.as_text(debug_info=True)
    sources = set(re.findall(r'"([^"]*\bGenerator\b[^"]*/[^"]*)"', text))
    assert {duration.phase(source) for source in sources} == {
        "D update, g forward",
        "G update, g forward",
        "G update, g backward",
    }
