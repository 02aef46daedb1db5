// What the console adds where there are scripts. Every page works without it.
"use strict";
(() => {
  const shown = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  });

  // Times in the reader's zone; the title keeps UTC.
  const localise = (root) => {
    for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.getTime())) {
        time.textContent = shown.format(at);
        time.dataset.local = "";
      }
    }
  };

  // Buttons that copy the text of another element.
  const offerCopies = (root) => {
    for (const block of root.querySelectorAll("[data-copy]:not([data-offered])")) {
      block.dataset.offered = "";
      if (!navigator.clipboard) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "copy";
      button.textContent = "Copy";
      button.setAttribute("aria-label", `Copy ${block.dataset.copy}`);
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(block.querySelector("code").textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      });
      block.append(button);
    }
  };

  // Times in forms: entered in the reader's zone, and sent with theirs, so that the server need not know it.
  const zone = (root) => {
    for (const field of root.querySelectorAll("input[data-time]:not([data-zoned])")) {
      field.dataset.zoned = "";
      const text = field.value.trim();
      const at = new Date(/^\d{4}-\d\d-\d\dT[\d:.]+$/.test(text) ? `${text}Z` : text);
      const isTime = !Number.isNaN(at.getTime());
      if (text && !isTime) continue;
      field.type = "datetime-local";
      field.step = 1;
      // The field takes a time without a zone, as it is here.
      field.value = isTime ? new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "";
      const label = field.labels[0];
      if (label) label.textContent = label.textContent.replace("(UTC)", "(your time)");
      const hint = document.getElementById(`h-${field.name}`);
      if (hint) {
        const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
        hint.textContent = hint.textContent.replace(/(Such as )?\d{4}-\d\d-\d\dT\d\d:\d\d/, here);
      }
      field.form?.addEventListener("formdata", ({ formData }) => {
        const value = new Date(formData.get(field.name));
        if (!Number.isNaN(value.getTime())) formData.set(field.name, value.toISOString());
      });
    }
  };

  const prepare = (root) => {
    localise(root);
    offerCopies(root);
    zone(root);
  };

  // The live tail: rows come as HTML that the server has escaped.
  const follow = (tail) => {
    const rows = tail.querySelector("tbody");
    const state = tail.querySelector("[data-state]");
    const pause = tail.querySelector("[data-pause]");
    const most = 200;
    let source = null;
    let last = null;
    const open = () => {
      const url = new URL(tail.dataset.stream, location.href);
      if (last) url.searchParams.set("after", last);
      source = new EventSource(url);
      source.onopen = () => { state.textContent = "Live"; };
      source.onerror = () => {
        if (source.readyState !== EventSource.CLOSED) {
          state.textContent = "Reconnecting…";
          return;
        }
        // The browser does not try again: the server refused, mostly because the session has ended.
        source = null;
        state.textContent = "The server has ended the live tail. Resume, or load the page again to sign in.";
        pause.textContent = "Resume";
      };
      source.addEventListener("reset", (message) => {
        last = message.lastEventId || last;
        state.textContent = "Live. Changes before now are no longer kept; the lists have them.";
      });
      source.onmessage = (message) => {
        last = message.lastEventId || last;
        const part = document.createElement("template");
        part.innerHTML = message.data;
        localise(part.content);
        tail.querySelector("[data-empty]")?.remove();
        rows.prepend(part.content);
        while (rows.children.length > most) rows.lastElementChild.remove();
      };
    };
    pause.hidden = false;
    pause.addEventListener("click", () => {
      if (source) {
        source.close();
        source = null;
        state.textContent = "Paused";
        pause.textContent = "Resume";
      } else {
        pause.textContent = "Pause";
        open();
      }
    });
    open();
  };

  prepare(document);
  document.querySelectorAll("[data-stream]").forEach(follow);
  document.addEventListener("htmx:after:swap", () => prepare(document));
})();
