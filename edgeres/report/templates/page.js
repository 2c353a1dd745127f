(function(){
var root=document.documentElement,button=document.getElementById("theme");
function dark(){var set=root.dataset.theme;return set?set==="dark":matchMedia("(prefers-color-scheme: dark)").matches}
function tell(){button.textContent=dark()?"Light":"Dark"}
button.hidden=false;tell();
button.addEventListener("click",function(){root.dataset.theme=dark()?"light":"dark";tell()});
})();
