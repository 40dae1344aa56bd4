// Keeps the page on the device, so that it opens without a connection. site.js, which `publish` writes, names its files:
// the small ones with their hashes, so that a new one makes the browser fetch all small ones again; the large ones carry
// theirs in their names.
importScripts("site.js");

const openCache = () => caches.open(registration.scope);

async function keep() {
  const cache = await openCache();
  const missing = [];
  for (const path of SITE.large) if (!(await cache.match(path))) missing.push(path);
  const small = Object.keys(SITE.small).map((path) => new Request(path, { cache: "no-cache" }));
  await cache.addAll([...missing, ...small]); // all or none
  await skipWaiting();
}

async function forgetOthers() {
  const cache = await openCache();
  const known = new Set([...SITE.large, ...Object.keys(SITE.small)].map((path) => new URL(path, registration.scope).href));
  for (const request of await cache.keys()) if (!known.has(request.url)) await cache.delete(request);
  await clients.claim();
}

async function reply(request) {
  const cache = await openCache();
  const wanted = request.mode === "navigate" ? "./" : request;
  return (await cache.match(wanted, { ignoreSearch: true })) ?? fetch(request);
}

addEventListener("install", (event) => event.waitUntil(keep()));
addEventListener("activate", (event) => event.waitUntil(forgetOthers()));
addEventListener("fetch", (event) => {
  const isOurs = event.request.method === "GET" && event.request.url.startsWith(registration.scope);
  if (isOurs) event.respondWith(reply(event.request));
});
