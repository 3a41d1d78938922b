"use strict";
// An element with data-src shows what the server has there, asked again every data-every milliseconds.

const told = document.getElementById("told");

function tell(text) {
  told.textContent = text;
  told.hidden = !text;
}

async function refresh(element) {
  const tag = element.dataset.tag;
  try {
    const answer = await fetch(element.dataset.src, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      const text = await answer.text();
      const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
      const open = Array.from(element.querySelectorAll("details"), (one) => one.open);
      const another = element.id === "seat" && tag;
      element.innerHTML = text;
      element.dataset.tag = answer.headers.get("ETag") || "";
      element.querySelectorAll("details").forEach((one, i) => { one.open = Boolean(open[i]); });
      if (another) { element.focus({ preventScroll: true }); element.scrollIntoView(); }
      else if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
    }
    if (told.dataset.lost) { delete told.dataset.lost; tell(""); }
  } catch {
    told.dataset.lost = "yes";
    tell("The simulation's process does not answer: it was stopped. The run folder is whole as far as days are committed.");
  }
}

async function follow(element) {
  for (;;) {
    // A form that somebody fills in is left alone; the seat's changes only when its page does.
    const typing = element.id !== "seat" && element.contains(document.activeElement) &&
      ["INPUT", "SELECT"].includes(document.activeElement.tagName);
    if (!typing && !document.hidden) await refresh(element);
    await new Promise((done) => setTimeout(done, Number(element.dataset.every)));
  }
}

const followed = document.querySelectorAll("[data-src]");
followed.forEach(follow);

// Forms with data-quiet do what they do without leaving the page; what was refused is told, and the form stays.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!("quiet" in form.dataset)) return;
  event.preventDefault();
  try {
    const body = new URLSearchParams(new FormData(form, event.submitter));
    const answer = await fetch(form.action, { method: "POST", body, redirect: "manual" });
    tell(answer.status >= 400 ? await answer.text() : "");
    if (told.hidden) setTimeout(() => followed.forEach(refresh), 80);
    else told.scrollIntoView({ block: "center" });
  } catch {
    tell("The simulation's process does not answer.");
  }
});
