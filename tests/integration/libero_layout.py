"""What LIBERO's own demonstration files hold, as its create_dataset.py writes them."""
import h5py

DATA_ATTRIBUTES = {"env_name", "problem_info", "macros_image_convention", "bddl_file_name", "bddl_file_content", "env_args",
                   "num_demos", "total"}
DEMO_ATTRIBUTES = {"num_samples", "model_file", "init_state"}
# dataset: (shape after the length, type); states' width depends on the task
DATASETS = {
    "actions": ((7,), "float64"), "dones": ((), "uint8"), "rewards": ((), "uint8"), "states": (None, "float64"),
    "robot_states": ((9,), "float64"), "obs/agentview_rgb": ((128, 128, 3), "uint8"),
    "obs/eye_in_hand_rgb": ((128, 128, 3), "uint8"), "obs/ee_states": ((6,), "float64"), "obs/ee_pos": ((3,), "float64"),
    "obs/ee_ori": ((3,), "float64"), "obs/gripper_states": ((2,), "float64"), "obs/joint_states": ((7,), "float64"),
}


def check_layout(test, path, more=()):
    """Asserts that a file has exactly these datasets, and those named in `more`, and these attributes; returns the
    demonstrations' lengths by name."""
    lengths = {}
    with h5py.File(path, "r") as file:
        test.assertEqual(list(file), ["data"])
        data = file["data"]
        test.assertEqual(set(data.attrs), DATA_ATTRIBUTES)
        for name, demo in data.items():
            length = lengths[name] = int(demo.attrs["num_samples"])
            test.assertEqual(set(demo.attrs), DEMO_ATTRIBUTES)
            found = {}
            demo.visititems(lambda key, item: found.update({key: item} if isinstance(item, h5py.Dataset) else {}))
            test.assertEqual(set(found), {*DATASETS, *more})
            for key, (shape, kind) in DATASETS.items():
                test.assertEqual(found[key].shape[0], length, key)
                test.assertEqual(found[key].dtype, kind, key)
                if shape is not None:
                    test.assertEqual(found[key].shape[1:], shape, key)
            for key in ("dones", "rewards"):
                test.assertEqual(demo[key][:].tolist(), [0] * (length - 1) + [1])
            test.assertEqual(demo["states"][0].tolist(), demo.attrs["init_state"].tolist())
            test.assertEqual(demo["obs/agentview_rgb"].compression, "gzip")
        test.assertEqual(int(data.attrs["num_demos"]), len(lengths))
        test.assertEqual(int(data.attrs["total"]), sum(lengths.values()))
    return lengths
