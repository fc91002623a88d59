// 3D Gaussians: read from SPZ 3, sorted from far to near, drawn as ellipses on the screen.

const SPLAT_VERTEX = `
uniform highp sampler2D gaussians; // three texels each: position, opacity; covariance; colour
uniform mat4 view, projection;
uniform vec2 viewport;
uniform float focal, near;
in vec2 corner;
in uint number;
out vec4 colour;
out vec2 at;

void main() {
  int width = textureSize(gaussians, 0).x, k = int(number) * 3;
  ivec2 texel = ivec2(k % width, k / width);
  vec4 a = texelFetch(gaussians, texel, 0);
  vec4 b = texelFetch(gaussians, texel + ivec2(1, 0), 0);
  vec4 c = texelFetch(gaussians, texel + ivec2(2, 0), 0);
  vec3 p = (view * vec4(a.xyz, 1.0)).xyz;
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // out of sight
  if (-p.z < near) return;
  mat3 covariance = mat3(b.x, b.y, b.z, b.y, b.w, c.x, b.z, c.x, c.y);
  // The projection is u = -f x / z; its derivatives, with x / z limited beyond the border.
  vec2 limit = 0.65 * viewport / focal;
  vec2 slope = clamp(p.xy / p.z, -limit, limit);
  mat3 jacobian = mat3(-focal / p.z, 0.0, 0.0, 0.0, -focal / p.z, 0.0, focal * slope / p.z, 0.0);
  mat3 t = jacobian * mat3(view);
  mat3 s = t * covariance * transpose(t);
  float xx = s[0][0] + 0.3, xy = s[0][1], yy = s[1][1] + 0.3; // a pixel's own width
  float mid = 0.5 * (xx + yy), spread = length(vec2(0.5 * (xx - yy), xy));
  float major = mid + spread, minor = max(mid - spread, 0.1);
  vec2 axis = abs(xy) < 1e-6 * mid ? (xx >= yy ? vec2(1, 0) : vec2(0, 1)) : normalize(vec2(xy, major - xx));
  at = 2.0 * corner;
  vec2 pixels = at.x * min(sqrt(2.0 * major), 2048.0) * axis
    + at.y * min(sqrt(2.0 * minor), 2048.0) * vec2(-axis.y, axis.x);
  vec4 centre = projection * vec4(p, 1.0);
  gl_Position = vec4(centre.xy / centre.w + 2.0 * pixels / viewport, 0.0, 1.0);
  float packed = c.z;
  colour = vec4(mod(packed, 256.0), mod(floor(packed / 256.0), 256.0), floor(packed / 65536.0), 255.0) / 255.0;
  colour.a = a.w;
}`;

const SPLAT_FRAGMENT = `
in vec4 colour;
in vec2 at;
out vec4 pixel;

void main() {
  float power = dot(at, at);
  if (power > 4.0) discard;
  float alpha = colour.a * exp(-power);
  pixel = vec4(colour.rgb * alpha, alpha);
}`;

// SPZ 3 without gzip -> what the shader takes: texels [12 N] and positions [3 N], in glTF's axes.
function readSpz(bytes) {
  const head = new DataView(bytes.buffer, bytes.byteOffset);
  const count = head.getUint32(8, true), step = 2 ** -bytes[13];
  let start = 16;
  const part = size => bytes.subarray(start, start += size * count);
  const places = part(9), alphas = part(1), colours = part(3), sizes = part(3), turns = part(4);
  const positions = new Float32Array(3 * count), texels = new Float32Array(12 * count);
  const scale = i => Math.exp(sizes[i] / 16 - 10);
  const level = i => Math.max(0, Math.min(255, Math.round(255 * ((colours[i] / 255 - 0.5) * GAIN + 0.5))));
  for (let i = 0; i < count; i++) {
    for (let axis = 0; axis < 3; axis++) {
      const at = 9 * i + 3 * axis;
      const fixed = (places[at] << 8 | places[at + 1] << 16 | places[at + 2] << 24) >> 8;
      positions[3 * i + axis] = (axis === 1 ? step : -step) * fixed; // RUB to LUF: half a turn about y
    }
    const r = rotation(turns, 4 * i), s = [scale(3 * i), scale(3 * i + 1), scale(3 * i + 2)];
    const v = (j, k) => r[j] * r[k] * s[0] ** 2 + r[3 + j] * r[3 + k] * s[1] ** 2 + r[6 + j] * r[6 + k] * s[2] ** 2;
    const packed = level(3 * i) + 256 * level(3 * i + 1) + 65536 * level(3 * i + 2);
    texels.set([
      ...positions.subarray(3 * i, 3 * i + 3), alphas[i] / 255,
      v(0, 0), -v(0, 1), v(0, 2), v(1, 1), -v(1, 2), v(2, 2), packed, 0,
    ], 12 * i);
  }
  return { count, positions, texels };
}

const GAIN = 0.28209479177387814 / 0.15;

// The rotation matrix, column by column, of 32 bits: which of x y z w is the largest, and the others.
function rotation(bytes, at) {
  const packed = (bytes[at] | bytes[at + 1] << 8 | bytes[at + 2] << 16 | bytes[at + 3] << 24) >>> 0;
  const largest = packed >>> 30, q = [0, 0, 0, 0];
  let shift = 20, sum = 0;
  for (let i = 0; i < 4; i++) {
    if (i === largest) continue;
    const field = packed >>> shift & 1023;
    q[i] = (field & 512 ? -1 : 1) * (field & 511) / 511 * Math.SQRT1_2;
    sum += q[i] ** 2;
    shift -= 10;
  }
  q[largest] = Math.sqrt(Math.max(0, 1 - sum));
  const [x, y, z, w] = q;
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y),
    2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x),
    2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y),
  ];
}

class SplatView {
  constructor(gl, bytes) {
    const { count, positions, texels } = readSpz(bytes);
    Object.assign(this, { gl, count, positions, sorted: null });
    this.order = new Uint32Array(count);
    this.keys = new Uint16Array(count);
    this.depth = new Float32Array(count);
    this.program = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    const width = 3 * 1024, height = Math.max(1, Math.ceil(count / 1024));
    const whole = new Float32Array(4 * width * height);
    whole.set(texels);
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, width, height, 0, gl.RGBA, gl.FLOAT, whole);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    buffer(gl, gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]));
    const corner = gl.getAttribLocation(this.program.made, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
    this.numbers = buffer(gl, gl.ARRAY_BUFFER, this.order);
    const number = gl.getAttribLocation(this.program.made, "number");
    gl.enableVertexAttribArray(number);
    gl.vertexAttribIPointer(number, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(number, 1);
    gl.bindVertexArray(null);
  }

  // By depth, far ones first: a counting sort of 16 bits, anew where the camera has turned.
  sort(view) {
    const back = [view[2], view[6], view[10]];
    if (this.sorted && dot(this.sorted, back) > 0.99999) return;
    this.sorted = back;
    const { count, positions, keys, order, depth } = this;
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      const d = positions[3 * i] * back[0] + positions[3 * i + 1] * back[1] + positions[3 * i + 2] * back[2];
      depth[i] = d;
      if (d < low) low = d;
      if (d > high) high = d;
    }
    const starts = new Uint32Array(65537), scale = 65535 / Math.max(high - low, 1e-9);
    for (let i = 0; i < count; i++) {
      keys[i] = (depth[i] - low) * scale;
      starts[keys[i] + 1]++;
    }
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) order[starts[keys[i]]++] = i;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.numbers);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, order);
  }

  draw(view, projection, width, height) {
    const { gl, program: { made, at } } = this;
    this.sort(view);
    gl.useProgram(made);
    gl.disable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.uniformMatrix4fv(at("view"), false, view);
    gl.uniformMatrix4fv(at("projection"), false, projection.matrix);
    gl.uniform2f(at("viewport"), width, height);
    gl.uniform1f(at("focal"), projection.focal);
    gl.uniform1f(at("near"), projection.near);
    gl.bindVertexArray(this.array);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
    gl.bindVertexArray(null);
  }
}
