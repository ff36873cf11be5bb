// The page: photos come in, one of them is on the stage, all of them are in the table.
const UNSAVED_ROWS = 20;
const OPEN = {files: () => $("files").click(), camera: () => $("camera").click()};
const state = {items: [], now: null, model: null, isExplaining: false, isSaved: true, nRows: ROWS_AT_ONCE, nPasted: 0, removed: [], url: "", modelAsked: null};

// Asked for once, and again where it could not be had.
function knowModel() {
  state.modelAsked ??= ask("model").then(reply => reply.json()).then(model => { drawModel(model); return model; });
  state.modelAsked.catch(() => { state.modelAsked = null; });
  return state.modelAsked;
}

async function addPhotos(photos) {
  if (!photos.length) return;
  server.isRefused = false;
  const made = photos.map(({file, name}) => ({file, name, state: "waiting", code: "", reason: "", ranked: [], thumb: "", row: null, map: "", mapError: "", isMapAsked: false}));
  state.items.push(...made);
  state.isSaved = false;
  say("");
  drawRows();
  choose(made[0], false);
  for (const item of made) enqueue(() => answer(item));
}

async function answer(item) {
  if (!state.items.includes(item) || item.state !== "waiting") return;
  const url = URL.createObjectURL(item.file);
  try {
    item.state = "sent";
    changed(item);
    const limits = await knowModel().then(model => model.limits, () => null);
    if (limits) checkBytes(item.file, limits);
    const image = await sizeOf(url);
    if (limits && image) checkPixels(image, limits);
    const small = image && !item.thumb ? thumbOf(image).then(thumb => { item.thumb = thumb; fillRow(item); }) : null;
    const reply = await ask(`predict?top=${TOP}`, item.file, seconds => {
      item.reason = `the server is busy; again in ${Math.ceil(seconds)} s`;
      changed(item);
    });
    const {status, ranked} = await reply.json();
    Object.assign(item, {state: status, ranked, reason: ""});
    await small;
  } catch (error) {
    Object.assign(item, {state: "failed", code: error.code || "odd", reason: error.code ? error.message : "the answer could not be read"});
    if (error.code === "gone" || error.code === "unauthorized") say(`No answer: ${error.message}.`);
  } finally {
    URL.revokeObjectURL(url);
  }
  changed(item);
  announce(item);
}

function checkBytes(file, limits) {
  if (file.size > limits.body_bytes) throw failure("too-large", `has ${(file.size / 1e6).toFixed(1)} MB; this server takes ${Math.floor(limits.body_bytes / 1e6)}`);
  if (file.size === 0) throw failure("unreadable", "is empty");
}

function checkPixels(image, limits) {
  const pixels = image.naturalWidth * image.naturalHeight;
  if (pixels > limits.pixels) throw failure("too-large", `has ${(pixels / 1e6).toFixed(1)} megapixels; this server takes ${Math.floor(limits.pixels / 1e6)}`);
}

function changed(item) {
  fillRow(item);
  if (item === state.now) drawAnswer();
  drawCount();
}

function announce(item) {
  const open = state.items.filter(isOpen).length;
  if (item === state.now) $("status").textContent = show(`${item.name}: ${spoken(item)}`);
  else if (!open) $("status").textContent = $("count").textContent;
}

function say(text, ...buttons) {
  const failed = state.items.filter(item => item.state === "failed" && PASSING.has(item.code));
  if (text && failed.length > 1) buttons.push(button(`Try all ${number(failed.length)} again`, () => tryAgain(failed)));
  $("alert").replaceChildren(element("span", "", text), ...buttons);
  $("alert").hidden = !text;
}

function button(text, run) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", run);
  return made;
}

function tryAgain(items) {
  server.isRefused = false;
  say("");
  for (const item of items) {
    Object.assign(item, {state: "waiting", code: "", reason: ""});
    changed(item);
    enqueue(() => answer(item));
  }
}

function choose(item, isShown = true) {
  const before = state.now;
  state.now = item;
  for (const other of [before, item]) if (other?.row) mark(other.row, other === item);
  if (item && !item.row && state.items.includes(item)) {
    state.nRows = Math.max(state.nRows, state.items.indexOf(item) + ROWS_AT_ONCE);
    drawRows();
  }
  drawStage();
  if (!item?.row || !isShown) return;
  const isInTable = $("rows").contains(document.activeElement);
  item.row.scrollIntoView({block: "nearest"});
  if (isInTable) item.row.querySelector("button").focus({preventScroll: true});
}

function mark(row, isNow) {
  if (isNow) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
  row.querySelector("button").tabIndex = isNow ? 0 : -1;  // one stop for the Tab key; the arrows go on from there
}

function step(by) {
  const place = state.items.indexOf(state.now) + by;
  if (place >= 0 && place < state.items.length) choose(state.items[place]);
}

function drawRows() {
  const hasAny = state.items.length > 0;
  document.body.classList.toggle("tried", hasAny);
  $("tried").hidden = !hasAny && !state.removed.length;
  $("stage").hidden = !hasAny;
  $("or").textContent = hasAny ? "anywhere on this page, or paste them" : "or paste them from the clipboard";
  const shown = state.items.slice(0, state.nRows);
  for (const item of shown) {
    if (item.row) continue;
    item.row = makeRow(item, choose);
    mark(item.row, item === state.now);
    fillRow(item);
  }
  const rows = shown.map(item => item.row);
  if (rows.length !== $("rows").children.length || rows.some((row, place) => row !== $("rows").children[place])) $("rows").replaceChildren(...rows);
  const left = state.items.length - rows.length;
  $("more").hidden = left === 0;
  $("more").textContent = `Show ${number(Math.min(left, ROWS_AT_ONCE))} more of ${number(left)}`;
  drawCount();
}

function drawCount() {
  const count = wanted => state.items.filter(wanted).length;
  const n = state.items.length, nOpen = count(isOpen), nUnsure = count(item => item.state === "unsure"), nFailed = count(item => item.state === "failed");
  const parts = [plural(n, "photo")];
  if (nUnsure) parts.push(`${number(nUnsure)} not sure`);
  if (nFailed) parts.push(`${number(nFailed)} without an answer`);
  if (nOpen) parts.push(`${number(nOpen)} to go`);
  $("count").textContent = parts.join(", ");
  $("progress").hidden = !nOpen || n < 2;
  $("progress").max = Math.max(n, 1);
  $("progress").value = n - nOpen;
  $("clear").disabled = n === 0;
  $("save").disabled = n === 0 || nOpen === n;
  $("undo").hidden = !state.removed.length;
}

function drawStage() {
  const item = state.now;
  URL.revokeObjectURL(state.url);
  state.url = item ? URL.createObjectURL(item.file) : "";
  if (!item) return;
  $("photo").hidden = false;
  $("missing").hidden = true;
  $("photo").alt = show(item.name);
  $("photo").src = state.url;
  $("file").replaceChildren(element("bdi", "", item.name));
  const place = state.items.indexOf(item);
  $("before").disabled = place <= 0;
  $("after").disabled = place === state.items.length - 1;
  drawAnswer();
}

function drawAnswer() {
  const item = state.now, best = item.ranked[0], threshold = state.model?.threshold ?? null;
  const odds = isAnswered(item) ? ofHundred(best.probability) : null;
  $("stage").className = item.state;
  $("stage").setAttribute("aria-busy", String(isOpen(item)));
  const label = item.state === "ok" ? best.label : item.state === "unsure" ? "Not sure" : item.state === "failed" ? "No answer" : "Looking\u2026";
  $("label").replaceChildren(element("bdi", "", label));
  $("label").className = `${item.state === "ok" ? "" : isOpen(item) ? "soft" : "no"}${label.length > 22 ? " long" : ""}`;
  $("said").replaceChildren(...statement(item, odds, threshold));
  $("odds").hidden = !odds;
  if (odds) $("odds").replaceChildren(...Array.from({length: 100}, (_, place) => element("i", place < odds.n ? "on" : "")));
  $("ranked").replaceChildren(...(odds ? item.ranked.flatMap(({label: name, probability}) => [element("bdi", "", name), meter(probability), element("span", "", percent(probability))]) : []));
  $("again").hidden = item.state !== "failed" || !PASSING.has(item.code);
  $("explain").hidden = state.model?.explains === false;
  $("explain").disabled = !odds && !state.isExplaining;
  $("explain").setAttribute("aria-pressed", String(state.isExplaining));
  drawMap();
}

function statement(item, odds, threshold) {
  const fine = element("span", "fine", "True of photos like those it learned from. Photos of anything else get an answer too, and it means nothing.");
  if (item.state === "ok") return [`Of 100 answers as sure as this one, ${odds.words} ${odds.words.endsWith(" 1") ? "is" : "are"} right.`, fine];
  if (item.state === "unsure") {
    const bar = threshold !== null && item.ranked[0].probability < threshold ? ` Below ${bound(threshold)} it does not commit itself.` : " It does not commit itself here.";
    return ["Perhaps ", element("bdi", "", item.ranked[0].label), `, but of 100 guesses like this one only ${odds.words.replace("about ", "about\u00a0")} would be right.`, element("span", "fine", bar.trim() + " A closer or sharper photo may help.")];
  }
  if (item.state === "failed") return [element("span", "", sentence(item.reason))];
  return [item.reason ? `${item.reason}.` : "\u00a0"];
}

// Reasons are said of a file: "is cut short", "has 31.0 megapixels"; or of the server.
const sentence = reason => (/^(is|has|was|claims|holds) /.test(reason) ? `This file ${reason}.` : `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`).replace(/\.+$/, ".");

function drawMap() {
  const item = state.now, isOn = state.isExplaining && isAnswered(item);
  $("map").hidden = !isOn;
  document.querySelector(".pictures").classList.toggle("two", isOn);
  $("caption").replaceChildren();
  if (!isOn) return;
  if (item.map) {
    const image = element("img");
    image.alt = show(`Where the model looked for ${item.ranked[0].label}`);
    image.src = item.map;
    $("map-frame").replaceChildren(image);
    $("caption").replaceChildren("Right: the square that the model saw, and what in it speaks for ", element("bdi", "", item.ranked[0].label), ". Yellow most, dark blue not at all.");
  } else {
    $("map-frame").replaceChildren(element("p", "missing", item.mapError || "looking\u2026"));
  }
  if (!item.isMapAsked) fetchMap(item);
}

function fetchMap(item) {
  item.isMapAsked = true;
  enqueue(async () => {
    try {
      item.map = URL.createObjectURL(await (await ask("explain", item.file)).blob());
    } catch (error) {
      item.mapError = error.code === "no-map" ? "this kind of model cannot tell where it looked" : error.message;
      item.isMapAsked = !PASSING.has(error.code);  // the next look asks again
      if (!item.isMapAsked) state.isExplaining = false;
      if (!item.isMapAsked) say(`Where it looked is not known: ${error.message}.`);
    }
    if (item === state.now) drawAnswer();
  }, true);
}

const bound = share => percent(share).replace(".0", "");

function explain() {
  if ($("explain").hidden || $("explain").disabled) return;
  state.isExplaining = !state.isExplaining;
  if (state.isExplaining) { server.isRefused = false; say(""); }
  drawAnswer();
  if (state.isExplaining) document.querySelector(".pictures").scrollIntoView({block: "nearest"});  // on a phone it is above
  $("status").textContent = state.isExplaining ? "Where it looked is shown" : "Where it looked is hidden";
}

function remove(items) {
  if (!items.length) return;
  const gone = new Set(items), place = state.items.indexOf(items[0]);
  state.removed.push({items: state.items, now: state.now});
  state.items = state.items.filter(item => !gone.has(item));
  $("status").textContent = `${plural(items.length, "photo")} removed`;
  const isInTable = $("rows").contains(document.activeElement);
  drawRows();
  choose(state.items[Math.min(place, state.items.length - 1)] ?? null, false);
  if (isInTable || document.activeElement === document.body) (state.now?.row?.querySelector("button") ?? $("choose")).focus({preventScroll: true});
}

function undo() {
  const before = state.removed.pop();
  if (!before) return;
  // What was added since stays, behind what comes back.
  const known = new Set(before.items), added = state.items.filter(item => !known.has(item));
  const returned = before.items.filter(item => !state.items.includes(item));
  state.items = [...before.items, ...added];
  drawRows();
  choose(before.now, false);
  $("status").textContent = `${plural(returned.length, "photo")} back`;
  tryAgain(returned.filter(item => item.state === "waiting"));
}

function save() {
  if ($("save").disabled) return;
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csvOf(state.items.filter(item => !isOpen(item)))], {type: "text/csv;charset=utf-8"}));
  link.download = `${(state.model?.name ?? "").replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[.-]+|-+$/g, "").slice(0, 80) || "photos"}-answers.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  state.isSaved = !state.items.some(isOpen);
  $("status").textContent = `${plural(state.items.length, "photo")} saved`;
}

// A dropped folder is every photo in it; hidden files and what systems leave behind are no photos.
async function photosOfDrop(transfer) {
  const entries = [...transfer.items].filter(item => item.kind === "file").map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some(entry => entry.isDirectory)) return named(transfer.files);
  const found = [];
  const walk = async entry => {
    if (/^\.|^(thumbs\.db|desktop\.ini)$/i.test(entry.name)) return;
    if (entry.isFile) {
      found.push({file: await new Promise((done, fail) => entry.file(done, fail)), name: entry.fullPath.replace(/^\//, "")});
      return;
    }
    const reader = entry.createReader();
    for (let some; (some = await new Promise((done, fail) => reader.readEntries(done, fail))).length;) for (const one of some) await walk(one);
  };
  for (const entry of entries) await walk(entry);
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const named = files => [...files].map(file => ({file, name: file.webkitRelativePath || file.name}));

function pasted(files) {
  // Browsers call each picture from the clipboard image.png.
  return named(files).map(photo => (photo.name === "image.png" ? {...photo, name: `pasted ${++state.nPasted}.png`} : photo));
}

function drawModel(model) {
  const {name, classes, n_test: n, limits, spec} = model;
  state.model = model;
  document.title = show(name);
  $("name").replaceChildren(element("bdi", "", name));
  $("what").textContent = `Tells ${number(classes.length)} kinds of photos apart.`;
  if (model.error !== null) {
    $("error").textContent = percent(model.error);
    $("interval").textContent = model.interval ? `95 % interval ${model.interval.map(percent).join(" to ")}` : "";
    $("figure").hidden = false;
    $("judged").textContent = `Measured on ${plural(n, "photo")} that it had not learned from. The figure holds for photos taken like these. Other cameras, places or seasons can be harder.`;
  }
  const facts = [
    ["Kinds it knows", classes.slice(0, 60).map(show).join(", ") + (classes.length > 60 ? ` and ${number(classes.length - 60)} more` : "")],
    ["Where it is not sure", model.threshold === null ? "it answers all the same" : `below ${bound(model.threshold)} it says so`],
    ["Looks at", spec.image_px ? `${spec.image_px} × ${spec.image_px} pixels${{crop: ", the middle of the photo", squash: ", the whole photo squashed", pad: ", the whole photo with a border"}[spec.fit] ?? ""}` : "the whole photo"],
    ["Takes", `photos up to ${Math.floor(limits.body_bytes / 1e6)} MB and ${Math.floor(limits.pixels / 1e6)} megapixels`],
  ];
  $("facts").replaceChildren(...facts.map(([term, text]) => element("div", "", "", element("dt", "", term), element("dd", "", text))));
  $("curl").textContent = `curl ${server.token ? "-H 'Authorization: Bearer TOKEN' " : ""}-H 'Content-Type: image/jpeg' --data-binary @photo.jpg ${new URL("predict", location.href).href}`;
  $("about").hidden = false;
  if (state.now) drawAnswer();
}

const KEYS = {
  o: OPEN.files, e: explain, s: save, u: undo, "?": () => $("keys").showModal(),
  Delete: () => remove(state.now ? [state.now] : []), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
};
const TABLE_KEYS = {
  ArrowUp: () => step(-1), ArrowDown: () => step(1), Home: () => choose(state.items[0]), End: () => choose(state.items.at(-1)),
};

document.addEventListener("keydown", event => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (document.querySelector("dialog[open]")) return;
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); undo(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const run = KEYS[key] ?? (event.target.closest?.("#rows") ? TABLE_KEYS[key] : undefined);
  if (!run) return;
  event.preventDefault();
  if (!event.repeat || key.startsWith("Arrow")) run();
});
document.addEventListener("paste", event => {
  if (document.querySelector("dialog[open]")) return;
  event.preventDefault();
  const photos = pasted(event.clipboardData.files);
  if (photos.length) addPhotos(photos); else say("There is no photo in the clipboard. Links are not fetched: save the photo, then drop it here.");
});
document.addEventListener("dragover", event => {
  event.preventDefault();
  const hasFiles = event.dataTransfer.types.includes("Files");
  event.dataTransfer.dropEffect = hasFiles ? "copy" : "none";
  document.body.classList.toggle("dragging", hasFiles);
});
document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
document.addEventListener("drop", async event => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  try {
    const photos = await photosOfDrop(event.dataTransfer);
    if (photos.length) addPhotos(photos); else say("There was no photo in it. Links are not fetched: save the photo, then drop it here.");
  } catch {
    say("What was dropped could not be read.");
  }
});
for (const id of ["files", "camera"]) {
  $(id).addEventListener("change", () => {
    const photos = named($(id).files);
    addPhotos(photos);
    $(id).value = "";  // the same photo may be chosen again
  });
}
const CLICKS = {
  choose: OPEN.files, take: OPEN.camera, explain, save, undo, help: KEYS["?"], again: () => tryAgain([state.now]), remove: KEYS.Delete,
  clear: () => remove(state.items), before: () => step(-1), after: () => step(1), more: () => { state.nRows += ROWS_AT_ONCE; drawRows(); },
  "keys-close": () => $("keys").close(), "token-cancel": () => $("token").close(),
};
for (const [id, run] of Object.entries(CLICKS)) $(id).addEventListener("click", () => run());
$("photo").addEventListener("error", () => { $("photo").hidden = true; $("missing").hidden = false; });
window.addEventListener("hashchange", () => { if (takeTokenFromAddress()) server.isRefused = false; });
window.addEventListener("beforeunload", event => {
  if (!state.isSaved && state.items.length >= UNSAVED_ROWS) event.preventDefault();
});
$("where").textContent = /^(localhost|127\.|\[::1\])/.test(location.hostname) ? "Photos stay on this machine." : `Photos go to ${location.host} and nowhere else.`;
takeTokenFromAddress();
knowModel().catch(error => say(`What this model is could not be read: ${error.message}.`));
