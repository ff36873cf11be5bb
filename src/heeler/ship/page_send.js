"use strict";
// Asking the server: one request at a time for each of a few lanes, again where it is busy, with a token where it
// wants one. Nothing here touches the page but the dialog that asks for the token.
const AT_ONCE = 4, MAX_TRIES = 8, MAX_WAIT_S = 10;
// Browsers give no kind to files whose ending their system does not know.
const KINDS = {
  jpg: "image/jpeg", jpeg: "image/jpeg", png: "image/png", webp: "image/webp", gif: "image/gif", bmp: "image/bmp", tif: "image/tiff",
  tiff: "image/tiff", jp2: "image/jp2", avif: "image/avif", heic: "image/heic", heif: "image/heif", ppm: "image/x-portable-pixmap",
};
// What may go well when it is tried again; anything else is about the photo itself.
const PASSING = new Set(["busy", "timeout", "gone", "unauthorized", "odd"]);
const $ = id => document.getElementById(id);
const waiting = [];
const server = {token: "", asking: null, isRefused: false, nInFlight: 0};

const failure = (code, message) => Object.assign(new Error(message), {code});
const pause = seconds => new Promise(done => setTimeout(done, 1000 * seconds));

function enqueue(task, first = false) {
  if (first) waiting.unshift(task); else waiting.push(task);
  while (server.nInFlight < AT_ONCE && waiting.length) run(waiting.shift());
}

async function run(task) {
  server.nInFlight++;
  try { await task(); } finally {
    server.nInFlight--;
    if (waiting.length) enqueue(waiting.shift(), true);
  }
}

async function ask(path, file = null, onBusy = () => {}) {
  for (let tries = 1; ;) {
    const token = server.token, headers = token ? {Authorization: `Bearer ${token}`} : {};
    if (file) headers["Content-Type"] = kindOf(file);
    let reply;
    try {
      reply = await fetch(path, {method: file ? "POST" : "GET", headers, body: file, cache: "no-store", redirect: "error"});
    } catch {
      throw await whyNoReply(file);
    }
    if (reply.ok) return reply;
    const error = await errorOf(reply);
    if (reply.status === 401) await tokenOtherThan(token);
    else if (reply.status === 503 && tries++ < MAX_TRIES) {
      // Spread out: the lanes that were refused together would come back together.
      const seconds = Math.min(Number(reply.headers.get("Retry-After")) || 1, MAX_WAIT_S) * (1 + Math.random() / 4);
      onBusy(seconds);
      await pause(seconds);
    } else throw error;
  }
}

async function whyNoReply(file) {
  // A file that was changed or moved after it was chosen fails like a server that is gone.
  try { await file?.slice(0, 1).arrayBuffer(); } catch { return failure("unreadable", "this file was moved or changed after it was chosen"); }
  return failure("gone", "the server does not answer; heeler serve may have ended");
}

async function errorOf(reply) {
  try {
    const {code, message} = (await reply.json()).error;
    return failure(String(code), String(message));
  } catch {
    return failure("odd", `the server answered ${reply.status} and did not say why`);
  }
}

function kindOf(file) {
  if (file.type.startsWith("image/")) return file.type;
  return KINDS[file.name.split(".").pop().toLowerCase()] || file.type || "application/octet-stream";
}

function tokenOtherThan(old) {
  if (server.token !== old) return null;  // another request has asked meanwhile
  if (server.isRefused) throw failure("unauthorized", "the server wants a token");
  server.asking ??= askForToken(old !== "").finally(() => { server.asking = null; });
  return server.asking;
}

function askForToken(isWrong) {
  $("token-why").textContent = `Whoever started heeler serve on ${location.host} has it. It is kept until you close or reload this page.`;
  sayWrong(isWrong ? "That is not the token of this server." : "");
  $("token-text").value = "";
  $("token").showModal();
  return new Promise((done, fail) => {
    let isGiven = false;
    $("token-form").onsubmit = event => {
      event.preventDefault();
      const token = $("token-text").value.trim();
      // Anything else cannot stand in a header.
      if (!/^[\x21-\x7e]+$/.test(token)) { sayWrong("A token has only letters, digits and signs."); return; }
      server.token = token;
      isGiven = true;
      $("token").close();
      done();
    };
    $("token").onclose = () => {
      // Browsers tell of a closed dialog later, when it may be open again for another try.
      if (isGiven || $("token").open) return;
      server.isRefused = true;
      fail(failure("unauthorized", "the server wants a token"));
    };
  });
}

function sayWrong(text) {
  $("token-wrong").textContent = text;
  $("token-wrong").hidden = !text;
}

function takeTokenFromAddress() {
  const found = /[#&]token=([^&]*)/.exec(location.hash);
  if (!found) return false;
  try { server.token = decodeURIComponent(found[1]).replace(/[^\x21-\x7e]/g, ""); } catch { server.token = ""; }
  // Out of the address bar, where it would be seen, copied and kept in the history.
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

// Width and height as the header tells them: no pixel is decoded, so that a photo that claims to be huge costs nothing.
async function sizeOf(url) {
  const image = new Image();
  try {
    await new Promise((done, fail) => { image.onload = done; image.onerror = fail; image.src = url; });
  } catch {
    return null;
  }
  return image;
}
