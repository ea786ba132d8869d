"""What a training step takes on many devices, from what it takes on one and from how fast they are linked.

    python benchmarks/cost_model.py            # the table of docs/scaling.md

A step is its products, its passes over memory, and its messages, one after another: nothing overlaps here, so that predictions
are on the slow side where a machine overlaps them.

- Products: 6 FLOP for each token and each parameter that it meets (2 forward, 4 backward), and 12 x layers x width x length of
  attention; at the share of the peak that is reached.
- Optimiser: AdamW reads a gradient, a weight and two moments, and writes three of them: 28 bytes a float32 parameter.
- Data parallelism: a ring sums float32 gradients, 2 (N-1)/N times their bytes through the slowest link of each device
  (Patarasuk and Yuan, 2009), and a latency for each of its 2 (N-1) steps.
- Tensor parallelism: each block sums two activations forward and two backward, [tokens, width] in bfloat16, over the links
  inside of a machine.

`benchmarks/scaling.py --workers 1,2,3,4` compares the same way of counting with what workers on one machine take.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained. `parameters` are all; `met` those that each token is multiplied with (tables are only looked up)."""

    name: str
    parameters: float
    met: float
    layers: int
    width: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices of one kind, `inside` of them linked fast. FLOP/s, bytes/s and seconds, of one device and one direction."""

    name: str
    peak: float
    share: float  # of the peak that products reach
    memory: float
    inside: int
    inside_link: float
    outside_link: float
    latency: float = 1e-5


def ring_seconds(size: float, devices: int, link: float, latency: float) -> float:
    """Returns what summing `size` bytes over devices in a ring takes."""
    return 2 * (devices - 1) / devices * size / link + 2 * (devices - 1) * latency


def step_seconds(
    network: Network, machine: Machine, *, tokens: float, devices: int, shards: int = 1
) -> dict[str, float]:
    """Returns the seconds of a step's parts, with `tokens` on each group of `shards` devices that hold one network."""
    products = tokens * (6 * network.met + 12 * network.layers * network.width * network.length)
    groups = devices // shards
    link = machine.inside_link if devices <= machine.inside else machine.outside_link
    inside = 4 * network.layers * ring_seconds(2 * tokens * network.width, shards, machine.inside_link, machine.latency)
    return {
        "products": products / shards / (machine.peak * machine.share),
        "optimiser": 28 * network.parameters / shards / machine.memory,
        "shards": inside if shards > 1 else 0.0,
        "gradients": ring_seconds(4 * network.parameters / shards, groups, link, machine.latency)
        if groups > 1
        else 0.0,
    }


def local_step_seconds(
    rows: float, workers: int, cores: int, *, fixed: float, a_row: float, work: float, wait: float
) -> float:
    """Returns the seconds of a step of workers that share one machine's cores, `rows` in all.

    Args:
        fixed, a_row: seconds of a step on one core, whatever its rows, and for each row.
        work, wait: seconds in which two workers sum their gradients: those in which a core computes, since messages between
            processes of one machine are work of its cores, and those in which it waits. A ring's share grows with 2 (N-1)/N.
    """
    ring = 2 * (workers - 1) / workers
    computes = fixed + a_row * rows / workers + work * ring
    # Where workers share a core, one computes while another waits.
    return computes * workers / cores if workers > cores else computes + wait * ring


BERT_LARGE = Network(name="BERT-large", parameters=335e6, met=303e6, layers=24, width=1024, length=512)
DECODER_7B = Network(name="a 7B decoder", parameters=6.7e9, met=6.6e9, layers=32, width=4096, length=2048)

# NVIDIA's data sheets: A100 SXM 80 GB (312 TFLOP/s bfloat16 dense, 2.0 TB/s, NVLink 600 GB/s both ways), with one HDR
# InfiniBand port (200 Gbit/s) a device; H100 SXM (989 TFLOP/s, 3.35 TB/s, NVLink 900 GB/s), with NDR (400 Gbit/s).
# Google Cloud's documentation: TPU v4, 275 TFLOP/s, 1.2 TB/s, 300 GB/s a chip over six links, of which a ring takes two;
# a pod is linked alike. The shares of the peak are assumptions, of what published runs of such sizes reach.
A100 = Machine(name="A100", peak=312e12, share=0.45, memory=2.0e12, inside=8, inside_link=300e9, outside_link=25e9)
H100 = Machine(name="H100", peak=989e12, share=0.4, memory=3.35e12, inside=8, inside_link=450e9, outside_link=50e9)
TPU_V4 = Machine(
    name="TPU v4", peak=275e12, share=0.5, memory=1.2e12, inside=4096, inside_link=100e9, outside_link=100e9
)


def table() -> str:
    """Returns predictions as a Markdown table."""
    lines = [
        "| network | devices | seconds of a step on 8, 64, 512 | tokens a second | each device, of its speed among 8 |",
        "|---|---|---|---|---|",
    ]
    for network, tokens, shards in ((BERT_LARGE, 16 * 512, 1), (DECODER_7B, 8 * 2048, 8)):
        for machine in (A100, H100, TPU_V4):
            steps = {
                count: sum(step_seconds(network, machine, tokens=tokens, devices=count, shards=shards).values())
                for count in (8, 64, 512)
            }
            speeds = {count: tokens * count / shards / seconds for count, seconds in steps.items()}
            kept = [speeds[count] / count / (speeds[8] / 8) for count in steps]
            how = "" if shards == 1 else f", {shards} hold one"
            lines.append(
                f"| {network.name}, {tokens:,} tokens a {'device' if shards == 1 else 'group'}{how} | {machine.name} | "
                + ", ".join(f"{seconds:.3f}" for seconds in steps.values())
                + " | "
                + ", ".join(f"{speed:,.0f}" for speed in speeds.values())
                + " | "
                + ", ".join(f"{share:.0%}" for share in kept)
                + " |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
