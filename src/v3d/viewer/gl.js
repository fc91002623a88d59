// What both kinds of objects need of WebGL 2.

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, "#version 300 es\nprecision highp float;\nprecision highp int;\n" + source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost())
    throw new Error(gl.getProgramInfoLog(made) || "a shader does not compile");
  const at = name => gl.getUniformLocation(made, name);
  return { made, at };
}

function buffer(gl, kind, data) {
  const made = gl.createBuffer();
  gl.bindBuffer(kind, made);
  gl.bufferData(kind, data, gl.STATIC_DRAW);
  return made;
}

// The box around points [3 N], without the hundredth that lies farthest out on each side: a few Gaussians
// that fly about do not make the object small.
function bounds(points) {
  const low = [], high = [];
  for (let axis = 0; axis < 3; axis++) {
    const values = Float32Array.from({ length: points.length / 3 }, (_, i) => points[3 * i + axis]).sort();
    const cut = Math.floor(0.01 * values.length);
    low.push(values[cut]);
    high.push(values[values.length - 1 - cut]);
  }
  const size = subtract(high, low);
  return { centre: low.map((l, i) => l + size[i] / 2), radius: Math.max(1e-6, Math.hypot(...size) / 2) };
}
