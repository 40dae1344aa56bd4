// Large files, which are fetched once and kept on the device; service_worker.js keeps the small ones in the same cache.

// The folder of the page names the cache: other pages of the same site have caches of their own.
const openCache = async () => {
  try {
    return await caches.open(new URL("./", import.meta.url).href);
  } catch {
    return null; // some browsers keep nothing in a private window
  }
};

export class DamagedFile extends Error {}

// The bytes of { path, bytes, sha256 }, and a promise whether they are kept. `progress` is told how many have come.
export async function keptFile(file, progress = () => {}) {
  const cache = await openCache();
  const kept = await cache?.match(file.path);
  if (kept) {
    const content = await kept.arrayBuffer();
    if (await isWhole(content, file)) {
      progress(content.byteLength);
      return { content, isKept: true };
    }
    await cache.delete(file.path);
  }
  const content = await fetched(file, progress);
  if (!(await isWhole(content, file))) throw new DamagedFile(file.path);
  return { content, isKept: keep(cache, file.path, content) };
}

async function keep(cache, path, content) {
  try {
    await cache?.put(path, new Response(content));
    return cache !== null;
  } catch {
    return false; // the storage is full
  }
}

async function fetched({ path, bytes }, progress) {
  const reply = await fetch(path);
  if (!reply.ok) throw new DamagedFile(path);
  const content = new Uint8Array(bytes);
  let length = 0;
  for (const reader = reply.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > bytes) throw new DamagedFile(path);
    content.set(value, length);
    length += value.length;
    progress(length);
  }
  return content.buffer.slice(0, length);
}

async function isWhole(content, { bytes, sha256 }) {
  if (content.byteLength !== bytes) return false;
  if (!crypto.subtle) return true; // without HTTPS, browsers have no hashes, and keep nothing either
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}
