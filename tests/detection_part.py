"""What deepfake_detection.py gives `utils.report.tables.add_detection`, around given cells."""


def detection_part(cells, **changed):
    protocol = {
        "protocol": "detection 2",
        "n": 100,
        "seed": 0,
        "repeats": 2,
        "folds": 10,
        "input": "datasets/sc09",
        "split": "validation",
        "clips": 1200,
        "alignment": "aligned",
        "front_end": "log_magnitude",
        "precision": "float32",
        "fakes": None,
        "generator": "checkpoint/",
        "generator_sha256": 64 * "a",
        "encoder": "inverse_mapping_checkpoint/",
        "encoder_bounded": True,
        "tail_share": 64,
    }
    hardware = {"cpu": "Some CPU", "cores": 2, "gpus": []}
    environment = {"commit": "abcdef0123456789", "dirty": False, "hardware": hardware}
    return {"cells": cells, "protocol": protocol | changed, "seconds": 60.0, "environment": environment}
