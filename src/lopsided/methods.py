"""The table of methods: read this first.

One `register` per method: which side learns (`train`), how the other factor is drawn (`sketch`), when a new link
starts (`chain`), and lr_B / lr_A (`lr_ratio`). Nothing else in the library asks for a method's name. Another method
is one more `register`, here or in a user's own file.

`lr` is the default learning rate on the embedded model; docs/decisions/0004-learning-rates.md says how it was
chosen.
"""

from lopsided.method import (
    Chain,
    Columns,
    KaimingUniform,
    LargestColumns,
    Orthonormal,
    Principal,
    Window,
    register,
)

# Not adapters: the ceiling and the floor of every comparison.
register("full", train="all", lr=3e-4, compared=True, source="full fine-tuning")
register("head", train="head", lr=1e-1, compared=True, source="the task's head alone, on frozen features")

# Both factors learn.
register("lora", train="AB", sketch=KaimingUniform(), compared=True, lr=1e-3, source="Hu et al. 2021, arXiv:2106.09685")
register(
    "lora_plus",
    train="AB",
    sketch=KaimingUniform(),
    lr_ratio=16.0,
    compared=True,
    lr=3e-4,
    source="Hayou et al. 2024, arXiv:2402.12354",
)
register(
    "cola",
    train="AB",
    sketch=KaimingUniform(),
    chain=Chain(links=4),
    compared=True,
    lr=3e-3,
    source="Xia et al. 2024, arXiv:2401.04151",
)
register(
    "relora",
    train="AB",
    sketch=KaimingUniform(),
    chain=Chain(links=4, prune=0.99, rewarm=5),
    lr=3e-3,
    source="Lialin et al. 2023, arXiv:2307.05695",
)

# One factor learns, the other is a dense random matrix.
register("lora_fa", train="B", sketch=KaimingUniform(), lr=3e-3, source="Zhang et al. 2023, arXiv:2308.03303")
register("asym_b", train="B", sketch=Orthonormal(), compared=True, lr=3e-3, source="Zhu et al. 2024, arXiv:2402.16842")
register("asym_a", train="A", sketch=Orthonormal(), lr=3e-3, source="Zhu et al. 2024, arXiv:2402.16842")
# Orthonormal where the paper also runs Gaussian sketches: its steps are then projections, stable up to 1/L.
register(
    "rac_b",
    train="B",
    sketch=Orthonormal(),
    chain=Chain(links=4),
    compared=True,
    lr=3e-3,
    source="Malinovsky et al. 2024, arXiv:2410.08305",
)
register(
    "rac_a",
    train="A",
    sketch=Orthonormal(),
    chain=Chain(links=4),
    lr=1e-3,
    source="Malinovsky et al. 2024, arXiv:2410.08305",
)
register(
    "bernoulli", train="coin", sketch=Orthonormal(), chain=Chain(links=4), p=0.5, lr=1e-3, source="arXiv:2508.03820"
)

# One factor learns, the other selects columns.
register(
    "cla", train="B", sketch=Window("fixed"), compared=True, lr=3e-3, source="Cadenhead et al. 2026, arXiv:2606.13767"
)
register("rcla", train="B", sketch=Columns(), compared=True, lr=3e-3, source="Cadenhead et al. 2026, arXiv:2606.13767")
register(
    "c3la",
    train="B",
    sketch=Window("cyclic"),
    chain=Chain(links=4),
    compared=True,
    lr=1e-3,
    source="Cadenhead et al. 2026, arXiv:2606.13767",
)
register(
    "rc3la",
    train="B",
    sketch=Window("shuffled"),
    chain=Chain(links=4),
    compared=True,
    lr=3e-3,
    source="Cadenhead et al. 2026, arXiv:2606.13767",
)
register("paca", train="B", sketch=Columns(), lr=3e-3, source="Woo et al. 2025, arXiv:2503.01905")
register(
    "cpaca",
    train="B",
    sketch=Columns(),
    chain=Chain(links=4),
    lr=3e-3,
    source="Woo et al. 2025, arXiv:2503.01905, chained as in arXiv:2606.13767",
)

# One factor learns, the other is drawn from the inputs of its layer: see `lopsided.calibrate`.
register(
    "ipa_b",
    train="B",
    sketch=Principal(),
    lr=3e-4,
    source="Yin et al. 2025, arXiv:2509.04398 (IPA, its projector frozen), with exact second moments",
)
register(
    "act_cla",
    train="B",
    sketch=LargestColumns(),
    lr=1e-3,
    source="columns of cLA, arXiv:2606.13767, by the norms of Wanda, Sun et al. 2023, arXiv:2306.11695",
)
