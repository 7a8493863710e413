"""What a compiled program moves, read from its text: collectives between devices, traffic to memory, loops counted."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "c64": 8, "c128": 16}
"""Bytes of an element of the types whose name does not say it in bits."""

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_END = re.compile(r"^\}(?:, .*)?$")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|called_computations|branch_computations)=(\{[^}]*\}|%[\w.\-]+)"
)
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all"}
"""Operations that move nothing themselves."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name, opcode: what it is called and does.
      shape: text of its result's shape.
      operands: names of its operands.
      attributes: the text after them.
      root: whether it is what its computation returns.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations it runs."""
        return tuple(name for text in _CALLED.findall(self.attributes) for name in _NAME.findall(text))


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of a program.

    Attributes:
      kind: one of `COLLECTIVES`.
      shape: text of its result's shape; that of a `-start` names the operands as well.
      rounds: how often it is run in one step.
      bytes: of its result on one device (of a reduce-scatter: of its operands).
      group: devices that take part in it together.
      source: the operation of the traced program that it serves, as its metadata say; "" where there are none.
    """

    kind: str
    shape: str
    rounds: int
    bytes: float
    group: int
    source: str

    @property
    def order(self) -> tuple[int, float, int]:
        """By which the fullest of the lines that write it down is chosen."""
        return self.rounds, self.bytes, self.group


@dataclasses.dataclass
class Traffic:
    """Collectives of a kind in one step.

    Attributes:
      count: how many are run.
      bytes: of their results on one device (of a reduce-scatter: of its operands).
      sent: bytes that one device sends, where they go round in rings.
    """

    count: int = 0
    bytes: float = 0.0
    sent: float = 0.0


class Program:
    """A compiled program, by its text (`compiled.as_text()`)."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        entry, current = "", None
        for line in _whole_lines(text):
            if current is None:
                if found := _COMPUTATION.match(line):
                    current = self.computations.setdefault(found[2], {})
                    entry = found[2] if found[1] else entry
            elif _END.match(line):
                current = None
            elif found := _INSTRUCTION.match(line):
                instruction = _parse(found[2], found[3], bool(found[1]))
                if instruction is not None:
                    current[instruction.name] = instruction
        self.rounds: dict[str, int] = {}
        """How often each computation is run in one step."""
        self._inside: set[str] = set()
        """Computations within one operation (a fusion, a reduction): what they hold stays on the chip."""
        self._visit(entry, 1, False)

    def _visit(self, name: str, times: int, inside: bool) -> None:
        self.rounds[name] = self.rounds.get(name, 0) + times
        if inside:
            self._inside.add(name)
        for instruction in self.computations.get(name, {}).values():
            loop = instruction.opcode == "while"
            control = loop or instruction.opcode in ("call", "conditional")
            for called in instruction.called:
                self._visit(called, times * (self._trips(instruction) if loop else 1), inside or not control)

    def _trips(self, loop: Instruction) -> int:
        """Rounds of a loop: as its text says, or by the constant that its condition compares with; else one."""
        if found := re.search(r'known_trip_count"?[:=]\s*\{"?n"?[:=]\s*"?(\d+)', loop.attributes):
            return int(found[1])
        condition = re.search(r"condition=%([\w.\-]+)", loop.attributes)
        body = self.computations.get(condition[1] if condition else "", {})
        limits = [line.attributes for line in body.values() if line.opcode == "constant"]
        compares = any("direction=LT" in line.attributes for line in self._reached(body))
        numbers = [int(number) for text in limits for number in re.findall(r"^\((\d+)\)", text)]
        return numbers[0] if compares and len(numbers) == 1 else 1

    def _reached(self, body: dict[str, Instruction]) -> Iterator[Instruction]:
        for instruction in body.values():
            yield instruction
            for called in instruction.called:
                yield from self._reached(self.computations.get(called, {}))

    def exchanges(self, devices: int) -> list[Exchange]:
        """What devices exchange in one step, one by one.

        Args:
          devices: all there are, for collectives that do not say among whom.
        """
        seen: dict[tuple[str, str], Exchange] = {}
        for name, body in self.computations.items():
            rounds = self.rounds.get(name, 0)
            for line in body.values():
                kind = line.opcode.removesuffix("-start")
                if kind not in COLLECTIVES or not rounds:
                    continue
                if name.startswith("all-reduce-scatter"):  # A TPU's, which keeps a part of what it adds up.
                    kind = "reduce-scatter"
                # An asynchronous one is written down once for its start and once for its end.
                channel = re.search(r"channel_id=(\d+)", line.attributes)
                key = (kind, channel[1] if channel else line.name)
                size = self._moved(line, body) if kind == "reduce-scatter" or line.opcode != kind else _size(line.shape)
                source = re.search(r'op_name="([^"]*)"', line.attributes)
                group = _group(line.attributes, devices)
                found = Exchange(kind, line.shape, rounds, size, group, source[1] if source else "")
                if key not in seen or seen[key].order < found.order:
                    seen[key] = found
        return [each for each in seen.values() if each.group > 1 or each.kind == "collective-permute"]

    def collectives(self, devices: int) -> dict[str, Traffic]:
        """What devices exchange in one step, summed by kind; arguments are those of `exchanges`."""
        return by_kind(self.exchanges(devices))

    def _moved(self, line: Instruction, body: dict[str, Instruction]) -> float:
        """Bytes of the larger of operands and result; the result of a `-start` names both."""
        operands = sum(_size(body[name].shape) for name in line.operands if name in body)
        result = _size(line.shape) - (operands if line.opcode.endswith("-start") else 0)
        return max(operands, result)

    def memory_traffic(self) -> float:
        """Bytes that one device reads from and writes to its memory in one step.

        Of an array that an operation slices, or writes a slice of, the slice counts; what lies in a TPU's fast memory
        does not.
        """
        total = 0.0
        for name, body in self.computations.items():
            if name not in self._inside and self.rounds.get(name, 0):
                total += self.rounds[name] * sum(self._touched(line, body) for line in body.values())
        return total

    def _touched(self, line: Instruction, body: dict[str, Instruction]) -> float:
        if line.opcode in ("copy-start", "slice-start"):  # Between the two memories, as a rule.
            arrays = _SHAPE.finditer(line.shape)
            ends = [array[0] for array, _ in zip(arrays, range(2), strict=False)]
            return min(map(_size, ends)) * sum(_size(end, memory=True) > 0 for end in ends)
        if line.opcode in _FREE or line.opcode.endswith(("-start", "-done")) or "AllocateBuffer" in line.attributes:
            return 0.0
        operands = [body[name] for name in line.operands if name in body]
        if line.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * _size(line.shape, memory=True)
        if line.opcode == "dynamic-update-slice":
            return 2 * _size(operands[1].shape, memory=True) if len(operands) > 1 else 0.0
        inner = self.computations.get(line.called[0], {}) if line.opcode == "fusion" and line.called else {}
        if not inner:
            return _size(line.shape, memory=True) + sum(_size(each.shape, memory=True) for each in operands)
        return self._written(line, inner) + self._read(inner, operands)

    def _written(self, line: Instruction, inner: dict[str, Instruction]) -> float:
        root = next((each for each in inner.values() if each.root), None)
        if root is not None and root.opcode == "dynamic-update-slice" and root.operands[1] in inner:
            return _size(inner[root.operands[1]].shape, memory=True)
        return _size(line.shape, memory=True)

    def _read(self, inner: dict[str, Instruction], operands: list[Instruction]) -> float:
        total = 0.0
        for parameter in (each for each in inner.values() if each.opcode == "parameter"):
            number = re.match(r"\((\d+)\)", parameter.attributes)
            if number is None or int(number[1]) >= len(operands):
                continue
            whole = _size(operands[int(number[1])].shape, memory=True)
            users = [each for each in inner.values() if parameter.name in each.operands]
            if users and all(each.opcode in ("dynamic-slice", "gather") for each in users):
                whole = min(whole, sum(_size(each.shape) for each in users))
            elif users and all(
                each.opcode == "dynamic-update-slice" and each.operands[0] == parameter.name for each in users
            ):
                whole = 0.0
            total += whole
        return total


def by_kind(exchanges: Iterable[Exchange]) -> dict[str, Traffic]:
    """Exchanges of one step, summed by kind."""
    found: dict[str, Traffic] = {}
    for each in exchanges:
        total = found.setdefault(each.kind, Traffic())
        total.count += each.rounds
        total.bytes += each.rounds * each.bytes
        total.sent += each.rounds * each.bytes * _share_sent(each.kind, each.group)
    return found


def _whole_lines(text: str) -> Iterator[str]:
    """A program's lines; what a kernel's metadata have written on several is one."""
    held = ""
    for line in text.splitlines():
        # A kernel's metadata begin in the first column, as computations and their ends do.
        if held.startswith(" ") and line and not (line[0].isspace() or _END.match(line)):
            held += line
            continue
        yield held
        held = line
    yield held


def _parse(name: str, text: str, root: bool) -> Instruction | None:
    """An instruction of the text after `=`: its shape, its opcode, its operands in parentheses, its attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    if not opcode or " " in opcode:
        return None
    close = _closing(rest, len(opcode))
    operands, attributes = rest[len(opcode) + 1 : close], rest[close + 1 :]
    if opcode in ("constant", "parameter"):
        attributes = f"({operands}){attributes}"
    return Instruction(name, opcode, shape, tuple(_NAME.findall(operands)), attributes, root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)


def _size(shape: str, memory: bool = False) -> float:
    """Bytes of a shape's arrays; with `memory` of those that lie in the device's main memory, as they lie there."""
    total = 0.0
    for kind, sizes, layout in _SHAPE.findall(shape):
        bits = re.fullmatch(r"[a-z]+(\d+)\w*", kind)
        width = BYTES.get(kind, int(bits[1]) / 8 if bits else 0)
        lengths = [int(size) for size in sizes.split(",") if size]
        if not (memory and re.search(r"S\([1-9]\)", layout)):
            total += width * math.prod(_padded(lengths, layout) if memory else lengths)
    return total


def _padded(lengths: list[int], layout: str) -> list[int]:
    """An array's sizes as a TPU stores it: in tiles such as `T(8,128)`, along the axes that vary fastest."""
    order, tile = re.match(r"\{([\d,]*)", layout), re.search(r"T\(([\d,]+)\)", layout)
    if not (order and tile):
        return lengths
    axes = [int(axis) for axis in order[1].split(",") if axis]
    lengths = list(lengths)
    for axis, size in zip(axes, reversed(tile[1].split(",")), strict=False):
        lengths[axis] += -lengths[axis] % int(size)
    return lengths


def _group(attributes: str, devices: int) -> int:
    """How many devices take part in a collective together."""
    if found := re.search(r"replica_groups=\[(?:\d+,)*(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return found[1].count(",") + 1
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        axes = {name: int(size) for name, size in re.findall(r"'([\w.]+)'=(\d+)", found[1])}
        return math.prod(axes.get(name, 1) for name in re.findall(r"'([\w.]+)'", found[2]))
    return devices


def _share_sent(kind: str, group: int) -> float:
    """Bytes that a device sends for each byte of the collective, round a ring of so many."""
    if kind == "collective-permute":
        return 1.0
    return (2.0 if kind == "all-reduce" else 1.0) * (group - 1) / group
