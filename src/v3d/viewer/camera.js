// Matrices (column by column, as WebGL takes them) and a camera that goes around the object.
// The world is glTF's: y up, the object's front towards +z.

const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const cross = (a, b) =>
  [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const unit = a => { const n = Math.hypot(...a) || 1; return [a[0] / n, a[1] / n, a[2] / n]; };

const FIELD_OF_VIEW = 35 * Math.PI / 180; // of the shorter side of the window
const START = { azimuth: 0, elevation: 0.17 };

class Camera {
  constructor(centre, radius) {
    this.centre = centre;
    this.radius = radius; // of the object
    this.reset();
  }

  reset() {
    Object.assign(this, START);
    this.target = [...this.centre];
    this.distance = this.radius / Math.sin(FIELD_OF_VIEW / 2);
  }

  turn(azimuth, elevation) {
    this.azimuth += azimuth;
    this.elevation = Math.max(-1.55, Math.min(1.55, this.elevation + elevation));
  }

  approach(factor) {
    this.distance = Math.max(0.05 * this.radius, Math.min(50 * this.radius, this.distance * factor));
  }

  // Moves what is looked at; x to the right and y up, in sides of the window.
  shift(x, y) {
    const { right, up } = this.axes();
    const size = 2 * this.distance * Math.tan(FIELD_OF_VIEW / 2);
    this.target = this.target.map((t, i) => t + size * (x * right[i] + y * up[i]));
  }

  axes() {
    const c = Math.cos(this.elevation), a = this.azimuth;
    const back = [c * Math.sin(a), Math.sin(this.elevation), c * Math.cos(a)]; // towards the camera
    const right = unit(cross([0, 1, 0], back));
    return { right, up: cross(back, right), back };
  }

  view() {
    const { right, up, back } = this.axes();
    const eye = this.target.map((t, i) => t + this.distance * back[i]);
    return new Float32Array([
      right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
    ]);
  }

  projection(width, height) {
    const near = Math.max(0.01 * this.radius, this.distance - 3 * this.radius);
    const far = this.distance + 20 * this.radius;
    const focal = Math.min(width, height) / 2 / Math.tan(FIELD_OF_VIEW / 2); // in pixels
    return {
      near, focal,
      matrix: new Float32Array([
        2 * focal / width, 0, 0, 0, 0, 2 * focal / height, 0, 0,
        0, 0, (near + far) / (near - far), -1, 0, 0, 2 * near * far / (near - far), 0,
      ]),
    };
  }
}
