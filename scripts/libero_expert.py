"""A scripted expert for LIBERO's picking and placing, with privileged simulator state: collect_libero_demos.py uses it.

Expert(env).plan() is a state machine written as a generator: it yields one clean action [7] (OSC_POSE deltas and the
gripper's command, each in [-1, 1]) per control step and reads the simulator anew before the next, so that it corrects
whatever a disturbance of the executed action has done. States: above, descend, close, lift, move, lower, open; an
object that was not lifted is tried again with another grasp. A plan begins in the state that fits the scene: with an
object in the hand it goes on to the target, so that the expert can take over from another policy at any time.
"""
import dataclasses

import mujoco
import numpy as np

OPEN, CLOSED = -1.0, 1.0
# Grasped by the rim, which is the only part of them that fits between the fingers.
RIM_OBJECTS = ("bowl", "mug", "plate", "ramekin", "pot")
RIM_DEPTH = 0.026       # m below the rim
FINGER_OPENING = 0.072  # m; wider objects cannot be grasped
HAND_ABOVE = 0.036      # m from the grip site up to the hand, which is 20 cm wide along the fingers' opening
LATTICE = 0.02          # m between the points that stand for a box
METRES_PER_ACTION = 0.05
RADIANS_PER_ACTION = 0.5
STALLED = 10  # steps without progress, at the edge of the arm's reach or against something, before going on


class Unreachable(Exception):
    """The goal needs more than picking and placing."""


class Scene:
    """Where things are: positions and point clouds in world coordinates, metres."""

    def __init__(self, env):
        self.env = env.env
        self.sim = self.env.sim
        self.names = [*self.env.objects_dict, *self.env.fixtures_dict]
        self._local = {name: self._collision_points(name) for name in self.names if name in self.env.obj_body_id}

    def _collision_points(self, name):
        """[(geom, points [N, 3] in its frame)] of the body and its children; boxes stand for round shapes."""
        model, root = self.sim.model._model, self.env.obj_body_id[name]
        bodies = {root}
        for body in range(root + 1, model.nbody):  # a body's parent has a smaller number
            if model.body_parentid[body] in bodies:
                bodies.add(body)
        geoms = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in bodies]
        solid = [geom for geom in geoms if model.geom_contype[geom] or model.geom_conaffinity[geom]]
        return [(geom, self._geom_points(model, geom)) for geom in solid or geoms]

    @staticmethod
    def _geom_points(model, geom):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            return model.mesh_vert[first:first + model.mesh_vertnum[mesh]]
        x, y, z = model.geom_size[geom]
        half = {mujoco.mjtGeom.mjGEOM_SPHERE: (x, x, x), mujoco.mjtGeom.mjGEOM_CYLINDER: (x, x, y),
                mujoco.mjtGeom.mjGEOM_CAPSULE: (x, x, y)}.get(model.geom_type[geom], (x, y, z))
        lattice = [np.linspace(-h, h, int(np.clip(np.ceil(2 * h / LATTICE), 2, 16)) + 1) for h in half]
        return np.stack(np.meshgrid(*lattice), axis=-1).reshape(-1, 3)

    def cloud(self, name):
        data = self.sim.data._data
        return np.concatenate([points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
                               for geom, points in self._local[name]])

    def others(self, name):
        return np.concatenate([self.cloud(other) for other in self._local if other != name])

    def position(self, name):
        """The body's origin, or the region's, which success is measured by."""
        return np.array(self.env.object_states_dict[name].get_geom_state()["pos"])

    def owner(self, name):
        """The object or fixture of a region ("basket_1_contain_region"), or the name itself; None for the table."""
        owners = [known for known in self._local if name.startswith(known)]
        return max(owners, key=len, default=None)

    def gripper(self):
        return np.array(self.sim.data.get_site_xpos("gripper0_grip_site"))

    def _between_fingers(self):
        return (self.sim.data.get_body_xpos("gripper0_leftfinger")
                - self.sim.data.get_body_xpos("gripper0_rightfinger"))

    def opening(self):
        """Metres between the fingers, 0.08 when they are open."""
        return np.linalg.norm(self._between_fingers())

    def finger_angle(self):
        """Direction in which the fingers open, in the plane of the table."""
        across = self._between_fingers()
        return np.arctan2(across[1], across[0])

    def holds(self, name):
        """Do both fingers touch the object?"""
        return bool(self.env._check_grasp(self.env.robots[0].gripper, self.env.get_object(name)))

    def tilt(self):
        """Rotation vector that turns the gripper to point down."""
        rotation = self.sim.data.get_site_xmat("gripper0_grip_site").reshape(3, 3)
        return np.cross(rotation[:, 2], [0, 0, -1.0])


@dataclasses.dataclass
class Grasp:
    point: np.ndarray  # [3] of the grip site
    yaw: float         # direction of the opening
    cost: float


def half_turn(angle):
    """The equivalent of a finger angle in [-pi/2, pi/2): the fingers are alike."""
    return (angle + np.pi / 2) % np.pi - np.pi / 2


def nearest(points, place):
    return np.linalg.norm(points[:, :2] - place, axis=1).min() if len(points) else np.inf


class Grasps:
    """Ways to take hold of one object, with the cheapest first."""

    def __init__(self, scene, name, target):
        self.scene, self.target = scene, target
        self.points = scene.cloud(name)
        self.others = scene.others(name)
        self.centre_of_body = scene.position(name)[:2]
        self.start_angle = scene.finger_angle()
        rim = any(kind in name for kind in RIM_OBJECTS)
        grasps = self._at_rim() if rim else self._around_centre()
        self.sorted = sorted(grasps, key=lambda grasp: grasp.cost)

    def _turn(self, angle):
        return 0.25 * abs(half_turn(angle - self.start_angle))

    @staticmethod
    def _hand_clearance(points, centre, out, radius):
        if not len(points):
            return np.inf
        return min(nearest(points, centre[:2] + out * (radius + along)) for along in (-0.1, -0.05, 0, 0.05, 0.1))

    def _at_rim(self):
        top = self.points[:, 2].max()
        rim = self.points[self.points[:, 2] > top - 0.012][:, :2]
        radius = np.percentile(np.linalg.norm(rim - self.centre_of_body, axis=1), 60)
        z = top - RIM_DEPTH
        low = self.others[self.others[:, 2] > z - 0.012]
        # What rises beside the object, or beside the place where it will stand, must not be hit by the hand.
        above_place = np.inf if self.target is None else self.target[2] + 0.07
        around_place = self.others[self.others[:, 2] > above_place]
        around = self.others[self.others[:, 2] > z + HAND_ABOVE]
        for angle in np.arange(-np.pi, np.pi, np.pi / 8):
            out = np.array([np.cos(angle), np.sin(angle)])
            finger = min(nearest(low, self.centre_of_body + out * (radius + gap)) for gap in (0.02, 0.045, 0.06))
            hand = min(self._hand_clearance(around_place, self.target, out, radius),
                       self._hand_clearance(around, self.centre_of_body, out, radius))
            tips = min(nearest(low, self.centre_of_body + out * (radius + gap)) for gap in (0.012, 0.024))
            hits = 2 * (tips < 0.012) + 2 * (hand < 0.03)
            cost = self._turn(angle) + hits - 30 * min(finger, 0.05) - 20 * min(hand, 0.06)
            yield Grasp(np.array([*(self.centre_of_body + out * (radius - 0.004)), z]), angle, cost)

    def _around_centre(self):
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        centre = (low + high)[:2] / 2
        middle = (low[2] + high[2]) / 2
        z = max(high[2] - 0.03, middle) if high[2] - low[2] > 0.05 else middle
        z = max(z, low[2] + 0.012)
        near = self.others[self.others[:, 2] > z - 0.012]
        for angle in np.arange(0, np.pi, np.pi / 16):
            out = np.array([np.cos(angle), np.sin(angle)])
            width = np.ptp(self.points[:, :2] @ out)
            finger = min(nearest(near, centre + side * out * (width / 2 + 0.025)) for side in (1, -1))
            too_wide = 10 + 88 * width if width > FINGER_OPENING else 0
            cost = self._turn(angle) + 12 * width + too_wide - 20 * min(finger, 0.03)
            yield Grasp(np.array([*centre, z]), angle, cost)


class Expert:
    """Reaches LIBERO's goals of the kind (On|In object target), one after the other."""

    def __init__(self, env, gain=1.6, tries=3):
        self.scene = Scene(env)
        self.goals = env.env.parsed_problem["goal_state"]
        for goal in self.goals:
            if not self.reachable(*goal):
                raise Unreachable(f"the goal ({' '.join(goal)}) is not reached by picking and placing")
        self.gain, self.tries = gain, tries
        self.gripper_command = OPEN
        self.state = "start"

    def reachable(self, predicate, name=None, target=None):
        """No drawers, doors and knobs to turn, and nothing to push."""
        if predicate not in ("on", "in") or name not in self.scene.env.objects_dict:
            return False
        owner = self.scene.owner(target)
        # Plates are too flat to grasp, and the regions of fixtures have doors or drawers, which may be closed.
        closed = predicate == "in" and owner in self.scene.env.fixtures_dict
        return "plate" not in name and owner is not None and not closed

    def plan(self):
        for goal in self.goals:
            if not self.scene.env._eval_predicate(goal):
                predicate, name, target = goal
                yield from self.pick_and_place(name, target, predicate)

    def pick_and_place(self, name, target, predicate):
        failed = []
        for _ in range(self.tries):
            held = self.scene.holds(name)
            self.gripper_command = CLOSED if held else OPEN
            if not held:
                grasp = self.choose_grasp(name, target if predicate == "on" else None, failed)
                if not self.is_in_position(grasp):
                    yield from self.above(grasp)
                yield from self.descend(grasp)
                yield from self.close(grasp)
            resting = self.scene.position(name)[2]
            lifted = held and (self.is_over(name, target) or self.rise(name, target, predicate) < 0.03)
            if not lifted:
                yield from self.lift(name, target, predicate)
            if lifted or self.scene.position(name)[2] - resting > 0.04:
                yield from self.move(name, target)
                yield from self.lower(name, target, predicate)
                yield from self.open(name)
                if self.is_over(name, target):
                    return  # otherwise it was lost on the way
                continue
            if not held:
                failed.append(grasp)
            yield from self.open(name)

    def choose_grasp(self, name, target, failed):
        place = self.scene.position(target) if target else None
        grasps = Grasps(self.scene, name, place).sorted
        fresh = [grasp for grasp in grasps if all(abs(half_turn(grasp.yaw - old.yaw)) > 0.5 for old in failed)]
        return (fresh or grasps)[0]

    # Where a plan begins.

    def is_in_position(self, grasp):
        """Are the open fingers on the way down to the grasp, or around the object already?"""
        x, y, z = self.scene.gripper() - grasp.point
        turn = half_turn(grasp.yaw - self.scene.finger_angle())
        room = self.scene.opening() > FINGER_OPENING or z < 0.012
        return np.hypot(x, y) < 0.012 and abs(turn) < 0.08 and -0.02 < z < 0.12 and room

    def is_over(self, name, target):
        return np.linalg.norm((self.scene.position(name) - self.scene.position(target))[:2]) < 0.08

    def rise(self, name, target, predicate):
        """How much higher the object has to be to pass over what stands between it and its target, metres."""
        clear = max(self.surface(target, predicate) + 0.06, self.obstacles(self.scene.position(target), name) + 0.03)
        return clear - self.scene.cloud(name)[:, 2].min()

    # The states.

    def above(self, grasp):
        self.state = "above"
        height = max(grasp.point[2] + 0.10, self.obstacles(grasp.point) + 0.05)
        here = self.scene.gripper()
        if height > here[2]:
            yield from self.go([*here[:2], height], tolerance=0.02, limit=30)
        yield from self.go([*grasp.point[:2], height], grasp.yaw, tolerance=0.012, limit=70)

    def descend(self, grasp):
        self.state = "descend"
        yield from self.go(grasp.point, grasp.yaw, tolerance=0.006, limit=40, speed=0.7)

    def close(self, grasp):
        self.state, self.gripper_command = "close", CLOSED
        yield from self.hold(grasp.point, grasp.yaw, steps=8)

    def lift(self, name, target, predicate):
        self.state = "lift"
        start = self.scene.gripper()
        yield from self.go(start + [0, 0, 0.05], tolerance=0.02, limit=20)
        rise = max(self.rise(name, target, predicate), 0.08)
        yield from self.go(self.scene.gripper() + [0, 0, rise], tolerance=0.02, limit=40)

    def move(self, name, target):
        self.state = "move"
        height = self.scene.gripper()[2]
        for tolerance, limit, speed in ((0.012, 80, 0.8), (0.008, 20, 0.5)):
            # Where the gripper has to be for the object to be over the target; the object may have swung meanwhile.
            over = self.scene.gripper() + self.scene.position(target) - self.scene.position(name)
            yield from self.go([*over[:2], height], tolerance=tolerance, limit=limit, speed=speed)

    def lower(self, name, target, predicate):
        self.state = "lower"
        gap = -0.02 if predicate == "in" else 0.01
        drop = self.scene.cloud(name)[:, 2].min() - self.surface(target, predicate) - gap
        yield from self.go(self.scene.gripper() - [0, 0, max(drop, 0)], tolerance=0.008, limit=70, speed=0.5)

    def open(self, name):
        self.state, self.gripper_command = "open", OPEN
        place, height = self.scene.gripper(), self.scene.position(name)[2]
        yield from self.hold(place, None, steps=6)
        up = place + [0, 0, 0.12]
        yield from self.go(up, tolerance=0.02, limit=25)
        if self.scene.position(name)[2] - height > 0.03:
            # It hangs on one finger: set it down deeper, put the fingers evenly around it, rise.
            deep = place[2] - 0.06
            yield from self.go([*place[:2], deep], tolerance=0.015, limit=25, speed=0.5)
            yield from self.go([*self.scene.position(name)[:2], deep], tolerance=0.006, limit=12, speed=0.5)
            yield from self.go(self.scene.gripper() + [0, 0, 0.15], tolerance=0.02, limit=25)

    # What they are made of.

    def surface(self, target, predicate):
        """Height that the object is lowered to: the top of a container, or of what it is put on."""
        owner = self.scene.owner(target)
        if predicate == "in" and owner:
            return self.scene.cloud(owner)[:, 2].max()
        return self.scene.position(target)[2] + (0.02 if owner == target else 0)

    def obstacles(self, point, carried=""):
        """Height of the tallest thing on the straight way of the hand, which is 20 cm wide, to a point."""
        here, way = self.scene.gripper()[:2], np.asarray(point)[:2] - self.scene.gripper()[:2]
        points = self.scene.others(carried)
        along = np.clip((points[:, :2] - here) @ way / max(way @ way, 1e-9), 0, 1)
        near = np.linalg.norm(points[:, :2] - here - along[:, None] * way, axis=1) < 0.1
        return points[near, 2].max(initial=0.0)

    def action(self, point, yaw, speed):
        """The clean action from here to a point [3], and how far it is: metres and radians."""
        error = np.asarray(point) - self.scene.gripper()
        action = np.zeros(7)
        action[:3] = np.clip(error / METRES_PER_ACTION * self.gain, -speed, speed)
        turn = 0.0
        if yaw is not None:
            turn = half_turn(yaw - self.scene.finger_angle())
            action[3:5] = np.clip(self.scene.tilt()[:2] / RADIANS_PER_ACTION * 1.5, -0.4, 0.4)
            action[5] = np.clip(turn / RADIANS_PER_ACTION * 1.5, -0.6, 0.6)
        action[6] = self.gripper_command
        return action, np.linalg.norm(error), abs(turn)

    def go(self, point, yaw=None, *, tolerance, limit, speed=1.0):
        best, stalled = np.inf, 0
        for _ in range(limit):
            action, distance, turn = self.action(point, yaw, speed)
            left = distance + 0.1 * turn
            stalled = 0 if left < best - 0.001 else stalled + 1
            best = min(best, left)
            if distance < tolerance and turn < 0.08 or stalled > STALLED:
                return
            yield action

    def hold(self, point, yaw, steps):
        for _ in range(steps):
            yield self.action(point, yaw, speed=1.0)[0]
