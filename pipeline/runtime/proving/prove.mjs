// The twin of prove.py for JavaScript, beside a kit: npm install onnxruntime-web, then
// node prove.mjs [THREADS]. A page calls prove(ort, fetchBytes) with onnxruntime-web.
const [VERSION, ROUNDING, FLOAT_SQNR_DB, MODEL_SQNR_DB] = [1, 1, 60, 10]; // as in prove.py
const ARRAYS = { uint8: Uint8Array, int8: Int8Array, int32: Int32Array, float32: Float32Array };

function sqnrDb(expected, found) {
  let [signal, noise] = [0, 0];
  expected.forEach((value, index) => {
    signal += value ** 2;
    noise += (value - found[index]) ** 2;
  });
  return noise === 0 ? Infinity : 10 * Math.log10(signal / noise);
}

function codesApart(expected, found) {
  if (found instanceof Float32Array) return sqnrDb(expected, found) >= FLOAT_SQNR_DB ? 0 : Infinity;
  return expected.reduce((most, code, index) => Math.max(most, Math.abs(code - found[index])), 0);
}

/**
 * Run a kit.
 * @param ort onnxruntime-web, or onnxruntime-node
 * @param fetchBytes returns a promise of a file's bytes, a Uint8Array, by its name in the kit
 * @returns a promise of the record; it is rejected with a sentence where nothing can be proven
 */
export async function prove(ort, fetchBytes) {
  const manifest = JSON.parse(new TextDecoder().decode(await fetchBytes("kit.json")));
  if (manifest.schema_version !== VERSION) {
    throw new Error(`the kit is of version ${manifest.schema_version}, not ${VERSION}`);
  }
  const { subtle } = globalThis.crypto ?? (await import("node:crypto")).webcrypto; // as Node 18 has it
  const files = {};
  for (const [name, sha256] of Object.entries(manifest.files)) {
    files[name] = await fetchBytes(name);
    const digest = new Uint8Array(await subtle.digest("SHA-256", files[name]));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== sha256) throw new Error(`${name} was changed; copy the kit again`);
  }
  const values = ({ file, dtype }) => new ARRAYS[dtype](new Uint8Array(files[file]).buffer);
  const apart = async ({ model, inputs, outputs }, distance) => {
    const feeds = Object.entries(inputs).map(([name, of]) =>
      [name, new ort.Tensor(of.dtype, values(of), of.shape)]);
    let found;
    try {
      const session = await ort.InferenceSession.create(files[model]);
      found = await session.run(Object.fromEntries(feeds), Object.keys(outputs));
      await session.release();
    } catch (error) {
      throw new Error(`onnxruntime cannot run ${model} (${error.message.replace(/\s+/g, " ").slice(0, 300)})`);
    }
    return Object.entries(outputs).map(([name, of]) => distance(values(of), found[name].data));
  };
  const layers = {};
  for (const part of manifest.layers) layers[part.name] = Math.max(...await apart(part, codesApart));
  const decibels = Math.min(...await apart(manifest.model, sqnrDb));
  const wrong = Object.keys(layers).filter((name) => !(layers[name] <= ROUNDING));
  return { // JSON writes null for what is not finite
    target: manifest.target,
    model: manifest.files[manifest.model.model],
    device: `${globalThis.process?.version ?? navigator.userAgent}, onnxruntime ${ort.env.versions.web}`,
    right: wrong.length === 0 && decibels >= MODEL_SQNR_DB,
    layers,
    wrong,
    model_sqnr_db: decibels,
  };
}

if (globalThis.process?.argv[1]?.endsWith("prove.mjs")) {
  const { readFile } = await import("node:fs/promises");
  try {
    const ort = await import("onnxruntime-web");
    ort.env.wasm.numThreads = Number(process.argv[2] ?? 1);
    const record = await prove(ort, (name) => readFile(new URL(name, import.meta.url)));
    console.log(JSON.stringify(record, null, 1));
    process.exit(record.right ? 0 : 1); // threads would keep the process alive
  } catch (error) {
    console.error(`prove: ${error.message}`);
    process.exit(2);
  }
}
