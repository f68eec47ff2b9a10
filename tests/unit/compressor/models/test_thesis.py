"""The thesis' models."""

from __future__ import annotations

from pqbench_compressor.plugins import MODELS, Files


def test_parameter_counts_are_the_thesis_table_3() -> None:
    plugin = MODELS.load("thesis")
    counts = {name: sum(p.numel() for p in plugin.build(name, plugin.Config(), Files()).parameters())
              for name in plugin.names()}  # fmt: skip
    auxiliary_head = 3_326_696  # of Inception V3: the thesis counted it, the deployed model has none
    assert counts.pop("inceptionv3") + auxiliary_head == 27_161_264
    assert counts == {
        "alexnet": 61_100_840, "densenet": 7_978_856, "googlenet": 6_624_904, "resnet": 11_689_512,
        "mobilenetv2": 3_504_872, "shufflenetv2": 2_278_604, "simplenet": 5_752_808, "squeezenet": 1_248_424,
        "visiontransformer": 86_567_656,
    }  # fmt: skip
    assert plugin.info("inceptionv3", plugin.Config(), Files()).preprocessing.height == 299
