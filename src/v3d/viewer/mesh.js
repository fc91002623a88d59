// A mesh: read from a GLB as V3D writes it, drawn with its texture, without, or as wires.

const MESH_VERTEX = `
uniform mat4 view, projection;
in vec3 position, normal;
in vec2 uv;
out vec3 facing; // in the camera's axes
out vec2 place;

void main() {
  facing = mat3(view) * normal;
  place = uv;
  gl_Position = projection * (view * vec4(position, 1.0));
}`;

const MESH_FRAGMENT = `
uniform sampler2D image;
uniform int mode; // 0: the texture as it is, which has its light in it; 1: the shape; 2: wires
in vec3 facing;
in vec2 place;
out vec4 pixel;

void main() {
  vec3 n = normalize(gl_FrontFacing ? facing : -facing);
  float light = 0.35 + 0.55 * max(dot(n, normalize(vec3(-0.4, 0.6, 0.7))), 0.0) + 0.1 * n.z;
  pixel = vec4(mode == 0 ? texture(image, place).rgb : mode == 1 ? vec3(0.86, 0.85, 0.82) * light
    : vec3(0.12, 0.16, 0.22), 1.0);
}`;

function readGlb(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const size = view.getUint32(12, true);
  const json = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + size)));
  const binary = bytes.subarray(28 + size);
  const part = index => {
    const { byteOffset, byteLength } = json.bufferViews[index];
    return binary.slice(byteOffset, byteOffset + byteLength);
  };
  const kinds = { 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
  const array = index => {
    const { bufferView, componentType } = json.accessors[index];
    return new kinds[componentType](part(bufferView).buffer);
  };
  const { attributes, indices } = json.meshes[0].primitives[0];
  const image = json.images && json.images[0];
  return {
    positions: array(attributes.POSITION),
    normals: array(attributes.NORMAL),
    uv: "TEXCOORD_0" in attributes ? array(attributes.TEXCOORD_0) : null,
    faces: Uint32Array.from(array(indices)),
    image: image ? new Blob([part(image.bufferView)], { type: image.mimeType }) : null,
  };
}

// Every edge once, as pairs of vertices.
function edges(faces) {
  const seen = new Set(), pairs = [];
  for (let i = 0; i < faces.length; i++) {
    const a = faces[i], b = faces[i % 3 === 2 ? i - 2 : i + 1];
    const key = Math.min(a, b) * 2 ** 26 + Math.max(a, b);
    if (!seen.has(key)) { seen.add(key); pairs.push(a, b); }
  }
  return Uint32Array.from(pairs);
}

class MeshView {
  static async make(gl, bytes) {
    const read = readGlb(bytes);
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    return new MeshView(gl, read, read.image ? await createImageBitmap(read.image, options) : null);
  }

  constructor(gl, { positions, normals, uv, faces }, image) {
    Object.assign(this, { gl, positions, count: faces.length, textured: Boolean(image) });
    this.program = program(gl, MESH_VERTEX, MESH_FRAGMENT);
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    for (const [name, width, data] of [["position", 3, positions], ["normal", 3, normals], ["uv", 2, uv]]) {
      const at = gl.getAttribLocation(this.program.made, name);
      if (!data || at < 0) continue;
      buffer(gl, gl.ARRAY_BUFFER, data);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, width, gl.FLOAT, false, 0, 0);
    }
    gl.bindVertexArray(null);
    const pairs = edges(faces);
    this.faces = buffer(gl, gl.ELEMENT_ARRAY_BUFFER, faces);
    this.edges = buffer(gl, gl.ELEMENT_ARRAY_BUFFER, pairs);
    this.pairs = pairs.length;
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    if (!image) return;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  }

  draw(view, projection, mode) {
    const { gl, program: { made, at } } = this;
    gl.useProgram(made);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.uniformMatrix4fv(at("view"), false, view);
    gl.uniformMatrix4fv(at("projection"), false, projection.matrix);
    gl.bindVertexArray(this.array);
    gl.uniform1i(at("mode"), mode === "mesh" && this.textured ? 0 : 1);
    gl.enable(gl.POLYGON_OFFSET_FILL);
    gl.polygonOffset(1, 1); // so that wires lie on the faces
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.faces);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
    gl.disable(gl.POLYGON_OFFSET_FILL);
    if (mode === "wires") {
      gl.uniform1i(at("mode"), 2);
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.edges);
      gl.drawElements(gl.LINES, this.pairs, gl.UNSIGNED_INT, 0);
    }
    gl.bindVertexArray(null);
  }
}
