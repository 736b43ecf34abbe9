// What the page and the Node program share: open the package, try its variants, classify pixels.
const VERSION = 1;

async function read(manifest, fetchBytes, name) {
  const bytes = await fetchBytes(name);
  if (globalThis.crypto?.subtle) { // browsers have it on https and localhost alone
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== manifest.files[name]) throw new Error(`${name} is not the file that was proven`);
  }
  return bytes;
}

function isRight(variant, probabilities) {
  const count = probabilities.length / variant.answers.length;
  return variant.answers.every((answer, image) => answer.classes.every((index, rank) => {
    const found = Math.log(Math.max(probabilities[image * count + index], 1.1754944e-38));
    return Math.abs(found - answer.log_probabilities[rank]) <= variant.tolerance;
  }));
}

/**
 * Open the first variant that answers the probe rightly, the fastest first.
 * @param ort onnxruntime-web or onnxruntime-node
 * @param fetchBytes returns a promise of a file's bytes, a Uint8Array, by its name
 * @param machine the CPU as `uname -m` names it; "" where that is unknown
 * @returns {target, classify(rgb, rows, columns)} with five [label, probability] pairs
 */
export async function openPackage(ort, fetchBytes, machine = "") {
  const text = (bytes) => new TextDecoder().decode(bytes);
  const manifest = JSON.parse(text(await fetchBytes("manifest.json")));
  if (manifest.schema_version !== VERSION) {
    throw new Error(`the manifest is of version ${manifest.schema_version}, not ${VERSION}`);
  }
  const file = (name) => read(manifest, fetchBytes, name);
  const labels = text(await file("labels.txt")).trimEnd().split("\n");
  const probe = new ort.Tensor("uint8", await file(manifest.probe.file), manifest.probe.shape);
  for (const variant of manifest.variants) {
    if (variant.machines.length && !variant.machines.includes(machine)) continue;
    const trial = await ort.InferenceSession.create(await file(variant.pixels.model));
    const { probabilities } = await trial.run({ pixels: probe }, ["probabilities"]);
    await trial.release();
    if (!isRight(variant, probabilities.data)) continue;
    const session = await ort.InferenceSession.create(await file(variant.image.model));
    const classify = async (rgb, rows, columns) => {
      const image = new ort.Tensor("uint8", rgb, [rows, columns, 3]);
      const answers = (await session.run({ image }, ["probabilities"])).probabilities.data;
      const order = Array.from(answers.keys()).sort((a, b) => answers[b] - answers[a]);
      return order.slice(0, 5).map((index) => [labels[index], answers[index]]);
    };
    return { target: variant.target, classify };
  }
  throw new Error("this machine computes none of the variants rightly");
}
